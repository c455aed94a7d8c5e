"""Memory of one rank, by what the training loop holds, and its highest point.

All weights are replicated on every rank in the format they are loaded in. AdamW holds two values for each trained one,
the average a third, and `v_real` takes a copy of the network unless adapters can be switched off. What lives and dies
within a step is counted by running it (see live.py). Cached latents and prompts lie on disk, and the system maps and
drops their pages, so they count only where the data has no cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from apex_cli.objectives.base import Objective
from apex_cli.training.cost import Bench, StepCost

LATENT = 4
"""Bytes of a number in latents."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank. Not all `parts` exist at once: gradients come while activations go."""

    parts: dict[str, int]
    """On the device that trains."""
    host: dict[str, int]
    """In the memory of the machine, which is the same where it trains on its processor."""
    peak: int
    """The most at once on that device."""


def of_run(bench: Bench, objective: Objective, data: Any, cost: StepCost, ranks: int, on_gpu: bool) -> Memory:
    """The memory of a run whose micro-batches cost `cost`."""
    trained, idle = trained_bytes(bench), _idle(bench, objective)
    state = {
        **_weights(bench, idle),
        "optimizer": 2 * trained,
        "average": trained if bench.config.ema else 0,
        "real network": module_bytes(bench.backbone.network) if _copies(bench, objective) else 0,
    }
    host = {"idle encoders": idle, "latents": 0 if hasattr(data, "pixels") else latent_bytes(bench, data)}
    update = trained * (2 if ranks > 1 else 1)  # several ranks average one flat copy
    passing = max(cost.peak, update, idle) if on_gpu else max(cost.peak, update) + sum(host.values())
    parts = state | {"gradients": trained, "activations": cost.activations}
    return Memory(parts, host, sum(state.values()) + passing)


def _idle(bench: Bench, objective: Objective) -> int:
    """Frozen encoders: on an accelerator only while they encode or a sample grid is drawn."""
    idle = [name for name in ("text_encoder", "vae") if name in bench.modules and name not in bench.parts.modules]
    return sum(module_bytes(bench.modules[name]) for name in idle) if objective.needs.inputs == "latents" else 0


def _weights(bench: Bench, idle: int) -> dict[str, int]:
    """Frozen ones, trained ones, and adapters."""
    everything = sum(module_bytes(module) for module in bench.modules.values()) - idle
    trained, extra = trained_bytes(bench), bench.parts.extra
    learned = 0 if extra is None else sum(p.nbytes for p in extra.parameters() if p.requires_grad)
    adapters = trained - learned if bench.parts.lora else 0
    return {"frozen weights": everything - trained, "trained weights": trained - adapters, "LoRA": adapters}


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
