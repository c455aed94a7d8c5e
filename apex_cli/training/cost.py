"""What one training step costs, counted by running the real objective on tensors that have shapes but no memory.

The backbone is built on the meta device and moved to `FakeTensorMode`: meta tensors that answer like tensors of the
CPU, so that autocast, fused attention and random generators take the same way as in training. FLOPs are those of
matrix products, convolutions and attention (a multiply-add counts two), by torch's own counter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Batch, Draws, Nets, Objective
from apex_cli.training import lora
from apex_cli.training.parts import Parts
from apex_cli.training.settings import TrainConfig

aten = torch.ops.aten


def _conv_backward(grad, x, weight, bias, stride, pad, dilation, transposed, out_pad, groups, mask, **_: Any) -> int:
    """Either gradient costs as much as the forward. torch's formula multiplies the one of the weight by `groups`."""
    return conv_flop_count(x, weight, grad, transposed) * (mask[0] + mask[1])


def _attention(query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


FORMULAS = {
    aten.convolution_backward: _conv_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's counter lacks or gets wrong."""


@dataclass(frozen=True)
class Evaluations:
    """Network evaluations per image of a step: rows asked for, divided by the rows of the batch; `calls`: forwards."""

    with_gradient: float = 0
    without_gradient: float = 0
    calls: int = 0


@dataclass(frozen=True)
class StepCost:
    """Forward and backward of one micro-batch."""

    forward: int
    """FLOPs of F, one forward of what is trained."""
    flops: dict[str, int]
    """FLOPs by phase."""
    evaluations: Evaluations
    activations: int
    """Bytes that autograd keeps for the backward, weights not counted; the peak with gradient checkpointing."""

    @property
    def total(self) -> int:
        return sum(self.flops.values())


class Activations:
    """Collects what autograd saves: each storage once, `weights` never."""

    def __init__(self, weights: set[int]):
        self.weights, self.kept, self.inside = weights, {}, 0

    @property
    def bytes(self) -> int:
        return self.inside + sum(storage.nbytes() for storage in self.kept.values())

    def keep(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.kept[storage._cdata] = storage  # held, so that the address stays taken
        return tensor

    def hooks(self):
        return torch.autograd.graph.saved_tensors_hooks(self.keep, lambda tensor: tensor)

    def checkpointed(self, block: Callable[..., Any], *inputs: Any) -> Any:
        """Gradient checkpointing of one block: its inputs stay, its inside exists for one block at a time."""
        inside = Activations(self.weights)
        with inside.hooks():
            block(*inputs)
        self.inside = max(self.inside, inside.bytes)
        for value in inputs:
            if isinstance(value, Tensor):
                self.keep(value)
        return checkpoint(block, *inputs, use_reentrant=False)


def addresses(tensors: Iterator[Tensor]) -> set[int]:
    return {tensor.untyped_storage()._cdata for tensor in tensors}


class Bench:
    """A backbone with its trained parts, ready to be asked what a step of some objective on `prompts` costs."""

    def __init__(self, backbone: Any, objective: Objective, config: TrainConfig, prompts: Sequence[str], size: int):
        """`backbone` lies on the meta device; `prompts` (none for pixels) and `size`: the rows of one micro-batch."""
        self.backbone, self.config, self.prompts, self.size = backbone, config, list(prompts), size
        self.parts = Parts(backbone, objective.needs, config, objective.modules)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.modules = {"transformer": backbone.network}
        for name, attribute in {"text_encoder": "text_encoder", "vae": "autoencoder"}.items():
            if isinstance(module := getattr(backbone, attribute, None), nn.Module):
                self.modules[name] = module
        if objective.modules is not None:
            self.modules["objective"] = objective.modules
        with self.mode:
            for module in self.modules.values():
                module.to_empty(device="cpu")
                for part in module.modules():
                    if hasattr(part, "tie_weights"):
                        part.tie_weights()  # undone by to_empty
        self.weights = addresses(p for module in self.modules.values() for p in module.parameters())

    def cond(self, prompts: list[str]) -> Cond:
        """Embeddings of `prompts`; with a gradient where the text encoder is trained."""
        with torch.set_grad_enabled("text_encoder" in self.parts.modules):
            return self.backbone.encode_prompts(prompts)

    def batch(self, objective: Objective) -> Batch:
        if objective.needs.inputs == "pixels":
            side = self.backbone.config.resolution
            empty = torch.zeros(self.size, 1, 1)
            return Batch(torch.empty(self.size, 3, side, side), Cond(empty, empty[..., 0] > 0))
        if objective.needs.inputs == "answers":
            return Batch(
                torch.zeros(self.size, len(objective.config.answers), dtype=torch.int64), self.cond(self.prompts)
            )
        uncond = self.cond([""]).expand(self.size) if objective.needs.uncond else None
        return Batch(torch.empty(self.size, *self.backbone.latent_shape), self.cond(self.prompts), uncond)

    def cost(self, objective: Objective) -> StepCost:
        """Runs forward and backward twice: once for FLOPs and evaluations, once for what autograd keeps."""
        drawn = objective.draw((self.size, *self.backbone.latent_shape), torch.Generator().manual_seed(0))
        with self.mode, self._autocast():
            draws = {name: self._faked(value) for name, value in drawn.items()}
            counter, log = FlopCounterMode(display=False, custom_mapping=FORMULAS), _Log(self)
            with counter:
                log.counter = counter
                loss = objective.loss(log.nets(objective), self.batch(objective), draws).total
                before = counter.get_total_flops()
                loss.backward()
                after = counter.get_total_flops()
            flops = log.flops | {"other forwards": before - sum(log.flops.values()), "backward": after - before}
            return StepCost(self._forward(objective), flops, log.evaluations(), self._activations(objective, draws))

    def tokens(self) -> int:
        """L of the micro-batch's prompt embeddings."""
        with self.mode:
            return self.cond(self.prompts).tokens.shape[1]

    def _faked(self, value: Tensor) -> Any:
        """Draws without memory; integers seed generators, so they stay numbers (a list)."""
        return value.tolist() if value.dtype == torch.int64 else self.mode.from_tensor(value)

    def _forward(self, objective: Objective) -> int:
        counter = FlopCounterMode(display=False, custom_mapping=FORMULAS)
        with torch.no_grad():
            batch = self.batch(objective)
            with counter:
                if objective.needs.trains == "autoencoder":
                    self.backbone.decode(self.backbone.encode_images(batch.x))
                elif objective.needs.trains == "text_encoder":
                    self.cond(self.prompts)
                else:
                    self.backbone.velocity(batch.x, torch.rand(self.size), batch.cond)
        return counter.get_total_flops()

    def _activations(self, objective: Objective, draws: Draws) -> int:
        found = Activations(self.weights)
        if self.config.gradient_checkpointing:
            self.backbone.network.enable_gradient_checkpointing(found.checkpointed)
        with found.hooks():
            objective.loss(_Log(self).nets(objective), self.batch(objective), draws)
        return found.bytes

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bf16"):
            yield


class _Log:
    """Stands between objective and network: counts what is asked, and the FLOPs it takes."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.counter: FlopCounterMode | None = None
        self.rows = {True: 0, False: 0}
        self.flops = {"forwards with gradient": 0, "forwards without gradient": 0}
        self.calls = 0

    def nets(self, objective: Objective) -> Nets:
        backbone = self.bench.backbone
        real = self.real if objective.needs.real in ("base", "ema") else None
        return Nets(self.student, real, getattr(backbone, "encode_images", None), backbone.decode)

    def student(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        before, gradient = self._count(), torch.is_grad_enabled()
        velocity = self.bench.backbone.velocity(x_t, t, cond)
        self.rows[gradient] += len(x_t)
        self.flops[f"forwards {'with' if gradient else 'without'} gradient"] += self._count() - before
        self.calls += 1
        return velocity

    def real(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The frozen copy has the student's shapes; under LoRA it is the student without adapters."""
        if not self.bench.parts.lora:
            return self.student(x_t, t, cond)
        with lora.disabled(self.bench.backbone.network):
            return self.student(x_t, t, cond)

    def evaluations(self) -> Evaluations:
        size = self.bench.size
        return Evaluations(self.rows[True] / size, self.rows[False] / size, self.calls)

    def _count(self) -> int:
        return 0 if self.counter is None else self.counter.get_total_flops()
