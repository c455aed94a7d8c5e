"""What a run will need before it starts: parameters, FLOPs, memory, disk and time, without loading a weight.

The caches of latents and prompts lie on disk; the system maps and drops their pages, so memory does not count them.
Parameters, FLOPs and evaluations are counted exactly (see cost.py); memory, disk and time are estimates that follow
the loop: AdamW holds two values for each trained one, the average a third, and `v_real` takes a copy of the network
unless adapters can be switched off.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn

from apex_cli.errors import UsageError
from apex_cli.objectives.base import Objective
from apex_cli.objectives.fm import FlowMatching, FlowMatchingConfig
from apex_cli.training.cost import Bench, Evaluations, StepCost
from apex_cli.training.schedule import micro_slices, rows_of_step
from apex_cli.training.settings import TrainConfig

SAMPLED_PROMPTS = 512
"""Prompts looked at to estimate how many distinct ones there are."""
ZOOM = 2
"""Enlargement of the sample grids."""
FLOAT = 4
"""Bytes of a number in latents and prompt embeddings."""


@dataclass(frozen=True)
class Geometry:
    batch: int
    ranks: int
    micro_batch: int
    forwards: int
    """Micro-batches of a step on each rank."""
    tokens: int
    """Prompt length of the first micro-batch, padded to its longest; 0 for pixels."""


@dataclass(frozen=True)
class Parameters:
    total: dict[str, int]
    """By component of the pipeline."""
    trainable: int


@dataclass(frozen=True)
class Compute:
    """FLOPs of one optimizer step over all ranks; F is one forward of the trained network on the same batch."""

    step: int
    in_forwards: dict[str, float]
    """Units of F by phase."""
    times_fm: float | None
    """This step divided by a plain flow-matching step of the same backbone, tuning and batch."""
    evaluations: Evaluations


@dataclass(frozen=True)
class Duration:
    rate: float
    """FLOP/s of a matrix product on this machine, measured now in the precision of the recipe."""
    mfu: float
    """Share of `rate` that a step is assumed to reach."""
    step: float
    """Seconds of an optimizer step."""
    run: float
    """Seconds of all steps; sample grids, encoding and saving come on top."""


@dataclass(frozen=True)
class Plan:
    """Sizes are bytes. `memory` is that of one rank."""

    geometry: Geometry
    parameters: Parameters
    compute: Compute
    memory: dict[str, int]
    disk: dict[str, int]
    duration: Duration
    assumptions: tuple[str, ...]


def make(
    backbone: Any, objective: Objective, data: Any, config: TrainConfig, ranks: int = 1, mfu: float = 0.35
) -> Plan:
    """Plan a run of `backbone`, built on the meta device (it is used up), on `ranks` processes.

    `data` needs `len`, and `prompts(rows)` unless the objective takes pixels. Raises `UsageError` where the loop would.
    """
    if config.batch % ranks:
        raise UsageError(f"train.batch = {config.batch} cannot be shared by {ranks} ranks.", "Change either.")
    slices = micro_slices(config.batch, ranks, 0, config.micro_batch)
    size, inputs = slices[0].stop - slices[0].start, objective.needs.inputs
    rows = rows_of_step(len(data), config.batch, config.seed, 0)[:size].tolist()
    bench = Bench(backbone, objective, config, [] if inputs == "pixels" else data.prompts(rows), size)
    cost = bench.cost(objective)
    plain = bench.cost(FlowMatching(FlowMatchingConfig())) if inputs == "latents" else None
    tokens = 0 if inputs == "pixels" else bench.tokens()
    geometry = Geometry(config.batch, ranks, size, len(slices), tokens)
    compute = _compute(cost, plain, config.batch / size)
    return Plan(
        geometry,
        Parameters({name: _parameters(module) for name, module in bench.modules.items()}, _trainable(bench)),
        compute,
        _memory(bench, objective, data, cost),
        _disk(bench, objective, data, tokens),
        _duration(compute.step / ranks, config, mfu),
        _assumptions(config, mfu),
    )


def _compute(cost: StepCost, plain: StepCost | None, micro_batches: float) -> Compute:
    units = {name: flops / cost.forward for name, flops in cost.flops.items()}
    ratio = None if plain is None else cost.total / plain.total
    return Compute(round(cost.total * micro_batches), units, ratio, cost.evaluations)


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _trainable(bench: Bench) -> int:
    return sum(p.numel() for p in bench.parts.named.values())


def _trained_bytes(bench: Bench) -> int:
    return sum(p.nbytes for p in bench.parts.named.values())


def _bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))


def _memory(bench: Bench, objective: Objective, data: Any, cost: StepCost) -> dict[str, int]:
    trained, real = _trained_bytes(bench), objective.needs.real
    copied = real == "ema" or (real == "base" and not bench.parts.lora)
    return {
        "weights": sum(_bytes(module) for module in bench.modules.values()),
        "gradients": trained,
        "optimizer": 2 * trained,
        "average": trained if bench.config.ema else 0,
        "real network": _bytes(bench.backbone.network) if copied else 0,
        "activations": cost.activations,
        "latents": 0 if hasattr(data, "pixels") else _latent_bytes(bench, data),
    }


def _latent_bytes(bench: Bench, data: Any) -> int:
    return len(data) * prod(bench.backbone.latent_shape) * FLOAT


def _distinct_prompts(data: Any, config: TrainConfig) -> int:
    """Distinct prompts among the rows that the run visits, from a sample (Chao's estimator of unseen species)."""
    visited = min(len(data), config.steps * config.batch)
    seen = min(visited, SAMPLED_PROMPTS)
    rows = rows_of_step(len(data), seen, config.seed, 0).tolist()
    counts = Counter(data.prompts(rows))
    if seen == visited:
        return len(counts)
    once, twice = (sum(n == times for n in counts.values()) for times in (1, 2))
    return min(visited, len(counts) + once * (once - 1) // (2 * (twice + 1)))


def _disk(bench: Bench, objective: Objective, data: Any, tokens: int) -> dict[str, int]:
    """One checkpoint more than `keep` exists while the next is written."""
    config, trained, parts = bench.config, _trained_bytes(bench), bench.parts
    model = trained if parts.lora else sum(v.nbytes for m in parts.modules.values() for v in m.state_dict().values())
    if parts.extra is not None and not parts.lora:
        model += _bytes(parts.extra)
    checkpoint = model * (2 if config.ema else 1) + 2 * trained
    encoded = objective.needs.inputs == "latents" and hasattr(data, "pixels")
    read = hasattr(bench.backbone, "text_encoder") and objective.needs.inputs != "pixels"
    embedded = _distinct_prompts(data, config) if read and "text_encoder" not in parts.modules else 0
    return {
        "checkpoint": checkpoint,
        "checkpoints": checkpoint * (config.keep + 1),
        "latent cache": _latent_bytes(bench, data) if encoded else 0,
        "prompt cache": embedded * tokens * bench.backbone.cond_dim * FLOAT,
        "samples": _sample_bytes(bench, config) if objective.needs.inputs == "latents" else 0,
    }


def _sample_bytes(bench: Bench, config: TrainConfig) -> int:
    """Grids before any compression: at the start, of the teacher, every `sample_every` steps and at the end."""
    side = ZOOM * getattr(bench.backbone.config, "resolution", 0)
    grids = 2 + -(-config.steps // config.sample_every)
    return grids * len(config.sample_prompts) * config.sample_seeds * 3 * side**2


def _duration(flops: float, config: TrainConfig, mfu: float) -> Duration:
    rate = matmul_rate(torch.bfloat16 if config.precision == "bf16" else torch.float32)
    step = flops / (rate * mfu)
    return Duration(rate, mfu, step, step * config.steps)


def matmul_rate(dtype: torch.dtype, seconds: float = 0.3, side: int = 1024) -> float:
    """FLOP/s of square matrix products on the device that training would use."""
    accelerator = torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if accelerator else torch.device("cpu")
    side = 8 * side if accelerator else side
    a = torch.randn(side, side, device=device, dtype=dtype)
    a @ a
    start, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        a @ a
        count += 1
        if accelerator:
            torch.accelerator.synchronize()
    return 2 * side**3 * count / elapsed


def _assumptions(config: TrainConfig, mfu: float) -> tuple[str, ...]:
    told: Sequence[str] = (
        f"time: a step reaches {mfu:.0%} of the matrix-product rate measured on this machine just now",
        "time: sample grids, encoding, saving and telemetry come on top",
        "memory: temporary buffers and the allocator's slack come on top",
        "FLOPs: matrix products, convolutions and attention",
        "prompts: as long as the longest of the first micro-batch",
    )
    checkpointing = "activations: the inside of one block at a time, as gradient checkpointing recomputes it"
    return (*told, checkpointing) if config.gradient_checkpointing else tuple(told)
