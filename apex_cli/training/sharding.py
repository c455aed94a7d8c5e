"""FSDP2: a network whose weights lie in shards, one on each rank; a block is whole only while it computes.

Nothing here knows what a run trains: see trained.py for that. Adapters and everything outside the transformer stay
whole on every rank.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from apex_cli.backbones.blocks import blocks
from apex_cli.errors import UsageError
from apex_cli.objectives.base import Needs
from apex_cli.training.settings import TrainConfig


def wanted(config: TrainConfig, needs: Needs, ranks: int) -> bool:
    """Whether a run on `ranks` processes lies in shards: one process has nothing to share out."""
    if config.sharding == "fsdp" and needs.trains != "transformer":
        raise UsageError(f"This objective trains the {needs.trains}; only a transformer can be sharded.",
                         'Set train.sharding = "none".')  # fmt: skip
    return config.sharding == "fsdp" and ranks > 1


def shares_casts(config: TrainConfig, sharded: bool) -> bool:
    """Whether autocast keeps a weight's bf16 copy for all forwards of a step. What FSDP frees must not stay so; and the
    gradients of adapters would wait for the whole backward of the first graph, the copies being older than the rest."""
    return not sharded and config.tuning == "full"


def shard(network: nn.Module, device: torch.device, whole: Collection[str] = ()) -> None:
    """Share `network` out over all ranks in place, moving one block after another to `device`.

    `whole`: names of parameters that every rank keeps, and that are left where they are. What is not in a block is
    freed after a forward too: FSDP would keep it for the backward, and a forward without one would then hide the
    next change of those weights.
    """
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    kept = {value for name, value in network.named_parameters() if name in whole}
    for module in (*blocks(network), network):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=kept)


def forget_forwards(network: nn.Module) -> None:
    """For a sharded network that has no backward: FSDP notes every forward until the next backward."""
    if isinstance(network, FSDPModule):
        network.register_forward_hook(lambda *_: network.reset_iter_state())


def stock_class(module: nn.Module) -> Any:
    """The class that `module` had before FSDP."""
    return next(kind for kind in type(module).__mro__ if not issubclass(kind, FSDPModule))


def hollow(network: nn.Module) -> nn.Module:
    """A copy of `network` on the meta device."""
    memo: dict[int, Any] = {id(p): nn.Parameter(p.to("meta"), p.requires_grad) for p in network.parameters()}
    return copy.deepcopy(network, memo | {id(buffer): buffer.to("meta") for buffer in network.buffers()})


def gather(network: nn.Module, empty: nn.Module) -> nn.Module:
    """The whole of a sharded `network` as the main process saves it, in the CPU's memory; all ranks take part.

    `empty`: its `hollow`. One tensor at a time passes the accelerator. On the other ranks the copy stays hollow.
    """
    state = {name: gathered(value) for name, value in network.state_dict().items()}
    full = copy.deepcopy(empty)
    if torch.distributed.get_rank() == 0:
        full.load_state_dict(state, assign=True)
    return full


@torch.no_grad()
def local(value: Tensor) -> Tensor:
    """The part of `value` on this rank, in the same memory."""
    return value.to_local().detach() if isinstance(value, DTensor) else value


def gathered(value: Tensor) -> Tensor:
    """The whole of a tensor, on the CPU of the main process and without values on others; all ranks take part."""
    full = value.full_tensor() if isinstance(value, DTensor) else value
    return full.to("cpu" if torch.distributed.get_rank() == 0 else "meta")


def spread(value: Tensor, like: Tensor | None) -> Tensor:
    """`value`, the same on every rank, shared out as `like` is; every rank takes its own part."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def load(module: nn.Module, state: dict[str, Tensor]) -> None:
    """`load_state_dict` with whole tensors, into a module that may lie in shards."""
    own = module.state_dict()
    module.load_state_dict({name: spread(value, own.get(name)) for name, value in state.items()})
