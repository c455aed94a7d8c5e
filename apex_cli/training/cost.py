"""What one training step costs, counted by running the real objective on tensors that have shapes but no memory.

The backbone is built on the meta device and moved to `FakeTensorMode`: meta tensors that answer like tensors of the
CPU, so that autocast, fused attention and random generators take the same way as in training. FLOPs are those of
matrix products, convolutions and attention (a multiply-add counts two), by torch's own counter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from apex_cli.backbones import blocks
from apex_cli.backbones.compact import compact_layers
from apex_cli.flops import Flops
from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Batch, Nets, Objective
from apex_cli.objectives.fm import FlowMatching, FlowMatchingConfig
from apex_cli.training import lora
from apex_cli.training.live import Course, Live, activations, peak
from apex_cli.training.parts import Parts
from apex_cli.training.repeats import Count, Repeats
from apex_cli.training.settings import TrainConfig
from apex_cli.training.sharding import shares_casts


@dataclass(frozen=True)
class Evaluations:
    """Network evaluations per image of a step: rows asked for, divided by the rows of the batch; `calls`: forwards."""

    with_gradient: float = 0
    without_gradient: float = 0
    calls: int = 0
    graphs: int = 0
    """Forwards with gradient in each micro-batch."""


@dataclass(frozen=True)
class StepCost:
    """Forward and backward of one micro-batch."""

    flops: dict[str, int]
    """FLOPs by phase."""
    evaluations: Evaluations
    activations: int
    """The most bytes alive at once, state and gradients not counted: what autograd keeps, and temporaries."""
    peak: int
    """The same with the gradients that are there at that moment."""
    course: Course = field(compare=False, repr=False)
    """What these two are the most of; without the gradients that were there before."""

    @property
    def total(self) -> int:
        return sum(self.flops.values())


class Bench:
    """A backbone with its trained parts, ready to be asked what a step of some objective on `prompts` costs."""

    def __init__(
        self, backbone: Any, objective: Objective, config: TrainConfig, prompts: Sequence[str], size: int,
        sharded: bool = False,
    ):  # fmt: skip
        """`backbone` lies on the meta device; `prompts` (none for pixels) and `size`: the rows of one micro-batch.
        `sharded`: as on ranks among which the network lies in shards."""
        self.backbone, self.config, self.prompts, self.size = backbone, config, list(prompts), size
        self.sharded = sharded
        with torch.device("meta"):
            self.parts = Parts(backbone, objective.needs, config, objective.modules)
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.modules = {"transformer": backbone.network}
        for name, attribute in {"text_encoder": "text_encoder", "vae": "autoencoder"}.items():
            if isinstance(module := getattr(backbone, attribute, None), nn.Module):
                self.modules[name] = module
        if objective.modules is not None:
            self.modules["objective"] = objective.modules
        network = backbone.network
        self.repeats = Repeats(network, self.parts.recompute.of, self._make)  # blocks that are never asked stay meta
        lists = {part for _, part in blocks.lists(network)}
        with self.mode:
            network.to_empty(device="cpu", recurse=False)
        asked = [part for part in network.children() if part not in lists]
        asked += [part for name, part in self.modules.items() if name != "transformer"]
        for part in asked:
            if part is not self.modules.get("vae") or objective.needs.inputs == "pixels":
                self._make(part)
        self.conds: dict[tuple[str, ...], Cond] = {}
        self.forwards: dict[str, int] = {}

    def _make(self, module: nn.Module) -> None:
        """Turn meta tensors into fake ones of the CPU."""
        with self.mode:
            module.to_empty(device="cpu")
            for part in module.modules():
                if callable(tie := getattr(part, "tie_weights", None)):
                    tie()  # undone by to_empty
            for layer in compact_layers(module):
                layer.away = tuple(torch.empty_like(value, device="cpu") for value in layer.away)

    def cond(self, prompts: list[str]) -> Cond:
        """Embeddings of `prompts`; with a gradient, and anew each time, where the text encoder is trained."""
        if "text_encoder" in self.parts.modules:
            return self.backbone.encode_prompts(prompts)
        if (key := tuple(prompts)) not in self.conds:
            with torch.no_grad():
                self.conds[key] = self.backbone.encode_prompts(prompts)
        return self.conds[key]

    def batch(self, objective: Objective) -> Batch:
        if objective.needs.inputs == "pixels":
            side = self.backbone.config.resolution
            return Batch.of_pixels(torch.empty(self.size, 3, side, side))
        if objective.needs.inputs == "answers":
            return Batch(
                torch.zeros(self.size, len(objective.config.answers), dtype=torch.int64), self.cond(self.prompts)
            )
        uncond = self.cond([""]).expand(self.size) if objective.needs.uncond else None
        return Batch(torch.empty(self.size, *self.backbone.latent_shape), self.cond(self.prompts), uncond)

    def cost(self, objective: Objective, accumulate: bool = False) -> StepCost:
        """Runs forward and backward, of a shallow network where blocks repeat; with `accumulate`, gradients are there
        before.

        Embeddings of a frozen text encoder are given, as the loop has them, and not part of the step.
        """
        self.forward(objective)  # what networks keep from their first forward on, such as rotary tables, is no part
        asked: list[Evaluations] = []
        found = self.repeats.count(lambda: self._count(objective, accumulate, asked))
        before = sum(value.nbytes for value in self.parts.named.values()) if accumulate else 0
        flops = {name: round(value) for name, value in found.numbers.items()}
        return StepCost(flops, asked[-1], activations(found.course), before + peak(found.course), found.course)

    def plain(self) -> int:
        """FLOPs of a step of plain flow matching; its one graph is checkpointed like the objective's first."""
        recompute, objective = self.parts.recompute, FlowMatching(FlowMatchingConfig())
        shares, recompute.shares = recompute.shares, recompute.shares[:1]
        try:
            found = self.repeats.count(lambda: self._count(objective, False, [], memory=False))
        finally:
            recompute.shares = shares
        return round(sum(found.numbers.values()))

    def _count(self, objective: Objective, accumulate: bool, asked: list[Evaluations], memory: bool = True) -> Count:
        """One forward and backward of the network as it stands; without `memory`, FLOPs only, in less time."""
        drawn = objective.draw((self.size, *self.backbone.latent_shape), torch.Generator().manual_seed(0))
        values = list(self.parts.named.values())
        counter, log = Flops(), _Log(self)
        with self.mode:
            draws = {name: self._faked(value) for name, value in drawn.items()}
            given = None if "text_encoder" in self.parts.modules else self.batch(objective)
            for value in values:
                value.grad = torch.empty_like(value) if accumulate else None
            live = Live(values)
            with ExitStack() as stack:
                if memory:
                    stack.enter_context(self.repeats.watched(live))
                    stack.enter_context(live.watching())
                stack.enter_context(counter)
                log.counter = counter
                batch = self.batch(objective) if given is None else _gathered(given)
                with self._autocast(), self.parts.recompute.step():
                    loss = objective.loss(log.nets(objective), batch, draws)
                forwards = counter.total
                loss.backward()
                everything = counter.total
        asked.append(log.evaluations())
        others = {"other forwards": forwards - sum(log.flops.values()), "backward": everything - forwards}
        return Count(log.flops | others, live.course)

    def prompt(self) -> tuple[int, int]:
        """(L of the micro-batch's prompt embeddings, bytes of one that is kept)."""
        with self.mode:
            cond = self.cond(self.prompts)
            held = (
                value.untyped_storage().nbytes() for value in (cond.tokens, cond.mask, cond.pooled) if value is not None
            )
            return cond.tokens.shape[1], sum(held) // self.size

    def _faked(self, value: Tensor) -> Any:
        """Draws without memory; integers seed generators, so they stay numbers (a list)."""
        return value.tolist() if value.dtype == torch.int64 else self.mode.from_tensor(value)

    def forward(self, objective: Objective) -> int:
        """FLOPs of F, one forward of what `objective` trains, without adapters."""
        if (trains := objective.needs.trains) not in self.forwards:
            found = self.repeats.count(lambda: Count({"F": self._forward(objective)}))
            self.forwards[trains] = round(found.numbers["F"])
        return self.forwards[trains]

    def _forward(self, objective: Objective) -> int:
        counter = Flops()
        with self.mode, torch.no_grad():
            batch = self.batch(objective)
            with counter, self._autocast():
                if objective.needs.trains == "autoencoder":
                    self.backbone.decode(self.backbone.encode_images(batch.x))
                elif objective.needs.trains == "text_encoder":
                    self.cond(self.prompts)
                else:
                    with lora.disabled(self.backbone.network) if self.parts.lora else nullcontext():
                        self.backbone.velocity(batch.x, torch.rand(self.size), batch.cond)
        return counter.total

    @contextmanager
    def _autocast(self) -> Iterator[None]:
        half = self.config.precision == "bf16"
        with torch.autocast("cpu", torch.bfloat16, enabled=half, cache_enabled=shares_casts(self.config, self.sharded)):
            yield


def _gathered(given: Batch) -> Batch:
    """A batch as the loop puts it together: rows of the latents, embeddings of the cached prompts side by side."""
    return replace(given, x=given.x.clone(), cond=Cond.cat([given.cond]))


class _Log:
    """Stands between objective and network: counts what is asked, and the FLOPs it takes."""

    def __init__(self, bench: Bench):
        self.bench = bench
        self.counter: Flops | None = None
        self.rows = {True: 0, False: 0}
        self.flops = {"forwards with gradient": 0, "forwards without gradient": 0}
        self.calls = self.graphs = 0

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
        self.graphs += gradient
        return velocity

    def real(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """The frozen copy has the student's shapes; under LoRA it is the student without adapters."""
        if not self.bench.parts.lora:
            return self.student(x_t, t, cond)
        with lora.disabled(self.bench.backbone.network):
            return self.student(x_t, t, cond)

    def evaluations(self) -> Evaluations:
        size = self.bench.size
        return Evaluations(self.rows[True] / size, self.rows[False] / size, self.calls, self.graphs)

    def _count(self) -> int:
        return 0 if self.counter is None else self.counter.total
