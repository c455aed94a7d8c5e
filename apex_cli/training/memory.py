"""Memory of one rank, by what the training loop holds, and its highest point.

Weights are replicated on every rank in the format they are loaded in, or lie in shards (`train.sharding`). AdamW holds
two values for each trained one, the average a third, and `v_real` takes a copy of the network unless adapters can be
switched off. What lives and dies within a step is counted by running it (see live.py). Cached latents and prompts lie
on disk, and the system maps and drops their pages, so they count only where the data has no cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from apex_cli.backbones.blocks import blocks
from apex_cli.backbones.compact import away_bytes
from apex_cli.objectives.base import Objective
from apex_cli.training.cost import Bench, StepCost
from apex_cli.training.live import Course
from apex_cli.training.repeats import is_forward

LATENT = 4
"""Bytes of a number in latents."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. Not all `parts` exist at once: gradients come while activations go, and of what lies in
    shards only a block or two are whole."""

    parts: dict[str, int]
    """On the device that trains."""
    host: dict[str, int]
    """In the memory of the machine, which is the same where it trains on its processor."""
    peak: int
    """The most at once on that device."""


def of_run(
    bench: Bench, objective: Objective, data: Any, cost: StepCost, ranks: int, on_gpu: bool, forwards: int = 1
) -> Memory:
    """The memory of a run whose micro-batches, `forwards` on each rank, cost `cost`."""
    network, idle = bench.backbone.network, _idle(bench, objective)
    trained, adapters = trained_bytes(bench), _adapters(bench)
    shards = Shards(network, bench.parts.lora, ranks if bench.sharded else 1)
    held = trained - shards.elsewhere(trained=True)
    frozen = sum(module_bytes(module) for module in bench.modules.values()) - idle - trained
    away = away_bytes(network)
    state = {
        "frozen weights": frozen - shards.elsewhere(trained=False),
        "trained weights": held - adapters,
        "LoRA": adapters,
        "optimizer": 2 * held,
        "average": held if bench.config.ema else 0,
        "real network": module_bytes(network) - shards.elsewhere() if _copies(bench, objective) else 0,
    }
    host = {
        "idle encoders": idle,
        "offloaded weights": sum(away),
        "latents": latent_bytes(bench, data) if objective.needs.images and not hasattr(data, "pixels") else 0,
    }
    gathered = shards.gathered if bench.sharded else max(away, default=0) if on_gpu else 0
    step = gathered + cost.peak
    if bench.sharded:
        step = shards.peak(cost.course, held / trained, held if forwards > 1 else 0)
    update = held + (trained - shards.trained if ranks > 1 else 0)  # what is whole is averaged as one flat copy
    drawing = idle + gathered  # the network is asked while grids are drawn
    passing = max(step, update, drawing) if on_gpu else max(step, update) + sum(host.values())
    parts = {"gathered weights": gathered, "gradients": held + 2 * shards.summed, "activations": cost.activations}
    return Memory(state | parts, host, sum(state.values()) + passing)


class Shards:
    """What FSDP2 (see sharding.py) makes of a network on `ranks` ranks, in bytes of the rank that has the most.

    A block is gathered into a buffer and copied out of it. In a forward the buffer stays until that of the next block
    has been copied, in a backward the next block is fetched while one computes: so two copies of a block lie here while
    it computes, and a third while it is copied. What is in no block is whole for a forward, and for a backward. The
    gradients of a block are whole until it is done; then they lie in a buffer, to be summed over the ranks, until the
    next block is.
    """

    def __init__(self, network: nn.Module, lora: bool, ranks: int):
        self.network, self.lora, self.ranks = network, lora, ranks
        self.trained = sum(value.nbytes for value in self._shared(network) if value.requires_grad)
        """Of all ranks together."""
        whole, *sizes = (sum(value.nbytes for value in self._shared(part)) for part in (network, *blocks(network)))
        self.block, self.outside = max(sizes, default=0), whole - sum(sizes)
        """The largest block, and what is in none."""
        self.summed = self.block if self.trained else 0
        """A buffer of gradients."""
        self.gathered = self.outside + 2 * self.block + max(self.block, self.outside)
        """The most that lies here beside this rank's shares."""

    def _shared(self, module: nn.Module) -> list[nn.Parameter]:
        """Parameters that lie in shards: all but adapters, where there are several ranks."""
        return [value for value in module.parameters() if self.ranks > 1 and not (self.lora and value.requires_grad)]

    def elsewhere(self, trained: bool | None = None) -> int:
        """Bytes that other ranks keep; `trained`: of what is trained, or of what is not."""
        wanted = [value for value in self._shared(self.network) if trained in (None, value.requires_grad)]
        return sum(value.nbytes - -(-len(value) // self.ranks) * value[:1].nbytes for value in wanted)

    def peak(self, course: Course, share: float, before: int) -> int:
        """The most bytes at once of a step, gathered weights included. `share`: of a gradient that this rank keeps;
        `before`: bytes of gradients that are there from earlier micro-batches, into which the new ones go."""
        most = 0
        for (place, _), moments in course.items():
            if not moments:
                continue
            entered, done = moments[0]
            gradients = (before or round(share * done)) + min(done, self.summed) - done
            high = max(total for total, _ in moments) + self.outside + 2 * self.block
            if is_forward(place):
                high = max(high, entered + self.gathered)
            most = max(most, high + gradients)
        return most


def _idle(bench: Bench, objective: Objective) -> int:
    """Frozen encoders: on an accelerator only while they encode or a sample grid is drawn."""
    idle = [name for name in ("text_encoder", "vae") if name in bench.modules and name not in bench.parts.modules]
    return sum(module_bytes(bench.modules[name]) for name in idle) if objective.needs.inputs == "latents" else 0


def _adapters(bench: Bench) -> int:
    """Those of LoRA, which stay whole on every rank."""
    extra = bench.parts.extra
    learned = 0 if extra is None else sum(p.nbytes for p in extra.parameters() if p.requires_grad)
    return trained_bytes(bench) - learned if bench.parts.lora else 0


def _copies(bench: Bench, objective: Objective) -> bool:
    """Whether `v_real` is a second network."""
    real = objective.needs.real
    return real == "ema" or (real == "base" and not bench.parts.lora)


def trained_bytes(bench: Bench) -> int:
    return sum(p.nbytes for p in bench.parts.named.values())


def module_bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))


def latent_bytes(bench: Bench, data: Any) -> int:
    return len(data) * prod(bench.backbone.latent_shape) * LATENT
