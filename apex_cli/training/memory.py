"""Memory of one rank, by what the training loop holds, and its highest point.

All weights are replicated on every rank in the format they are loaded in. AdamW holds two values for each trained one,
the average a third, and `v_real` takes a copy of the network unless adapters can be switched off. What lives and dies
within a step is counted by running it (see live.py).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import Any

from torch import nn

from apex_cli.objectives.base import Objective
from apex_cli.training.cost import Bench, StepCost
from apex_cli.training.schedule import rows_of_step
from apex_cli.training.settings import TrainConfig

SAMPLED_PROMPTS = 512
"""Prompts looked at to estimate how many distinct ones there are."""
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


def of_run(
    bench: Bench, objective: Objective, data: Any, cost: StepCost, ranks: int, kept: int, on_gpu: bool
) -> Memory:
    """The memory of a run whose micro-batches cost `cost`; `kept`: bytes of one prompt embedding."""
    trained, latents = trained_bytes(bench), objective.needs.inputs == "latents"
    state = {
        **_weights(bench),
        "optimizer": 2 * trained,
        "average": trained if bench.config.ema else 0,
        "real network": module_bytes(bench.backbone.network) if _copies(bench, objective) else 0,
        "prompt cache": kept * _distinct_prompts(data, bench.config, ranks) if _keeps_prompts(bench, objective) else 0,
    }
    host = {"latents": latent_bytes(bench, data) if latents else 0}
    update = trained * (2 if ranks > 1 else 1)  # several ranks average one flat copy
    peak = sum(state.values()) + max(cost.peak, update) + (0 if on_gpu else sum(host.values()))
    return Memory(state | {"gradients": trained, "activations": cost.activations}, host, peak)


def _weights(bench: Bench) -> dict[str, int]:
    """Frozen ones, trained ones, and adapters."""
    everything = sum(module_bytes(module) for module in bench.modules.values())
    trained, extra = trained_bytes(bench), bench.parts.extra
    learned = 0 if extra is None else sum(p.nbytes for p in extra.parameters() if p.requires_grad)
    adapters = trained - learned if bench.parts.lora else 0
    return {"frozen weights": everything - trained, "trained weights": trained - adapters, "LoRA": adapters}


def _copies(bench: Bench, objective: Objective) -> bool:
    """Whether `v_real` is a second network."""
    real = objective.needs.real
    return real == "ema" or (real == "base" and not bench.parts.lora)


def _keeps_prompts(bench: Bench, objective: Objective) -> bool:
    return objective.needs.inputs != "pixels" and "text_encoder" not in bench.parts.modules


def trained_bytes(bench: Bench) -> int:
    return sum(p.nbytes for p in bench.parts.named.values())


def module_bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))


def latent_bytes(bench: Bench, data: Any) -> int:
    return len(data) * prod(bench.backbone.latent_shape) * LATENT


def _distinct_prompts(data: Any, config: TrainConfig, ranks: int) -> int:
    """Distinct prompts among the rows that a rank visits, from a sample (Chao's estimator of unseen species)."""
    visited = min(len(data), config.steps * config.batch // ranks)
    seen = min(visited, SAMPLED_PROMPTS)
    rows = rows_of_step(len(data), seen, config.seed, 0).tolist()
    counts = Counter(data.prompts(rows))
    if seen == visited:
        return len(counts)
    once, twice = (sum(n == times for n in counts.values()) for times in (1, 2))
    return min(visited, len(counts) + once * (once - 1) // (2 * (twice + 1)))
