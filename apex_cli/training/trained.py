"""What a run trains, as ordinary tensors of this rank: whole ones, or its shards, with gradients over all ranks.

Optimizer, average and clipping see no difference. A shard is a view of the memory that FSDP gathers from, so that what
is written to it is what the next forward reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from apex_cli.training import sharding
from apex_cli.training.sharding import local


class Trained:
    """`params`: by name, what the optimizer changes."""

    def __init__(self, named: Mapping[str, nn.Parameter], accelerator: Accelerator):
        self.accelerator = accelerator
        self.sharded = {name: value for name, value in named.items() if isinstance(value, DTensor)}
        self.params = {
            name: nn.Parameter(local(value)) if name in self.sharded else value for name, value in named.items()
        }

    def reduce(self) -> None:
        """Make every `grad` the mean over the ranks: FSDP has done so for shards, the others go in one all-reduce of
        one flat tensor, whatever the number of forwards and modules."""
        for name, value in self.sharded.items():
            self.params[name].grad = None if value.grad is None else local(value.grad)
            value.grad = None
        if self.accelerator.num_processes == 1 or not (gradients := self._gradients(sharded=False)):
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        torch.distributed.all_reduce(flat)  # in place: that of accelerate makes one more copy
        flat /= self.accelerator.num_processes
        for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(part.view_as(gradient))

    def norm(self) -> Tensor:
        """Norm of all gradients, the same on every rank; after `reduce`."""
        norm = get_total_norm(self._gradients(sharded=False))
        if not self.sharded:
            return norm
        square = get_total_norm(self._gradients(sharded=True)).square().to(self.accelerator.device)
        square = cast(Tensor, self.accelerator.reduce(square, "sum"))
        return (square + norm.to(square).square()).sqrt()

    def clip(self, norm: Tensor, limit: float) -> None:
        """Shorten the gradients, which have the norm `norm`, to `limit`."""
        clip_grads_with_norm_(self.params.values(), limit, norm)

    def norm_of(self, loss: Tensor) -> float:
        """Norm of the gradient of `loss` alone, by a backward that keeps the graph; there must be no gradient yet."""
        loss.backward(retain_graph=True)
        self.reduce()
        norm = float(self.norm())
        for value in self.params.values():
            value.grad = None
        return norm

    def gathered(self, name: str, value: Tensor) -> Tensor:
        """The whole of `value`, which is like parameter `name` on this rank (or a number). All ranks take part; on
        others than the main process the answer has no values where there are shards."""
        like = self.sharded.get(name)
        if like is None or value.ndim == 0:
            return value
        whole = DTensor.from_local(value, like.device_mesh, like.placements, shape=like.shape, stride=like.stride())
        return sharding.gathered(whole)

    def own(self, name: str, value: Tensor) -> Tensor:
        """This rank's part of the whole `value`: inverse of `gathered`."""
        like = self.sharded.get(name)
        if like is None or value.ndim == 0:
            return value
        return local(sharding.spread(value, like)).clone()  # a view would keep the whole

    def _gradients(self, sharded: bool) -> list[Tensor]:
        chosen = (value for name, value in self.params.items() if (name in self.sharded) == sharded)
        return [value.grad for value in chosen if value.grad is not None]
