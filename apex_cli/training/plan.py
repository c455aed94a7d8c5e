"""What a run will need before it starts: parameters, FLOPs, memory, disk and time, without loading a weight.

Parameters, FLOPs and evaluations are counted exactly (see cost.py), memory by what the loop holds (see memory.py); disk
and time are estimates.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch

from apex_cli.backbones.compact import numel
from apex_cli.data.pools import pools
from apex_cli.errors import UsageError
from apex_cli.gpus import Gpu
from apex_cli.objectives.base import Objective
from apex_cli.training import sharding
from apex_cli.training.cost import Bench, Evaluations, StepCost
from apex_cli.training.memory import Memory, latent_bytes, module_bytes, of_run, trained_bytes
from apex_cli.training.schedule import Order, micro_slices
from apex_cli.training.settings import TrainConfig

ZOOM = 2
"""Enlargement of the sample grids."""
SAMPLED_PROMPTS = 512
"""Prompts looked at to estimate how many distinct ones there are."""


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
    trained: tuple[str, ...]
    """Components that are trained."""
    trainable: int


@dataclass(frozen=True)
class Compute:
    """FLOPs of one optimizer step over all ranks; F is one forward, without adapters, of the trained network on the
    same batch. What gradient checkpointing computes again counts."""

    step: int
    sample: float
    """A step divided by its batch."""
    in_forwards: dict[str, float]
    """Units of F by phase."""
    times_fm: float | None
    """This step divided by a plain flow-matching step of the same backbone, tuning and batch."""
    evaluations: Evaluations


@dataclass(frozen=True)
class Duration:
    rate: float
    """FLOP/s in the precision of the recipe: the peak of the GPU, or of a matrix product on this machine, measured."""
    mfu: float
    """Share of `rate` that a step is assumed to reach."""
    step: float
    """Seconds of an optimizer step."""
    run: float
    """Seconds of all steps; sample grids, encoding and saving come on top."""


@dataclass(frozen=True)
class Plan:
    """Sizes are bytes. `gpu` is the device planned for, None for this machine."""

    geometry: Geometry
    parameters: Parameters
    compute: Compute
    memory: Memory
    disk: dict[str, int]
    duration: Duration
    assumptions: tuple[str, ...]
    gpu: Gpu | None

    @property
    def fits(self) -> bool | None:
        """Whether a rank has room on `gpu`."""
        return None if self.gpu is None else self.memory.peak <= self.gpu.memory


def make(
    backbone: Any,
    objective: Objective,
    data: Any,
    config: TrainConfig,
    ranks: int = 1,
    mfu: float = 0.35,
    gpu: Gpu | None = None,
) -> Plan:
    """Plan a run of `backbone`, built on the meta device (it is used up), on `ranks` processes with a `gpu` each.

    `data` needs `len`, and `prompts(rows)` unless the objective takes pixels. Raises `UsageError` where the loop would.
    """
    if config.batch % ranks:
        raise UsageError(f"train.batch = {config.batch} cannot be shared by {ranks} ranks.", "Change either.")
    sharded = sharding.wanted(config, objective.needs, ranks)
    slices = micro_slices(config.batch, ranks, 0, config.micro_batch)
    size, inputs = slices[0].stop - slices[0].start, objective.needs.inputs
    rows = Order(pools(data), config.batch, config.seed).rows(0)[:size].tolist()
    bench = Bench(backbone, objective, config, [] if inputs == "pixels" else data.prompts(rows), size, sharded)
    tokens, kept = (0, 0) if inputs == "pixels" else bench.prompt()
    cost = bench.cost(objective, accumulate=len(slices) > 1 and not sharded)
    plain = bench.plain() if inputs == "latents" else None
    compute = _compute(cost, plain, bench.forward(objective), config.batch, size)
    on_gpu = gpu is not None or torch.accelerator.is_available()
    return Plan(
        Geometry(config.batch, ranks, size, len(slices), tokens),
        _parameters(bench),
        compute,
        of_run(bench, objective, data, cost, ranks, on_gpu, len(slices)),
        _disk(bench, objective, data, kept),
        _duration(compute.step / ranks, config, mfu, gpu),
        _assumptions(config, mfu, gpu),
        gpu,
    )


def _compute(cost: StepCost, plain: int | None, forward: int, batch: int, size: int) -> Compute:
    units = {name: flops / forward for name, flops in cost.flops.items()}
    ratio = None if plain is None else cost.total / plain
    return Compute(round(cost.total * batch / size), cost.total / size, units, ratio, cost.evaluations)


def _parameters(bench: Bench) -> Parameters:
    total = {name: numel(module) for name, module in bench.modules.items()}
    return Parameters(total, tuple(bench.parts.modules), sum(p.numel() for p in bench.parts.named.values()))


def _distinct_prompts(data: Any, config: TrainConfig) -> int:
    """Distinct prompts among the rows that the run visits, from a sample (Chao's estimator of unseen species)."""
    run = Order(pools(data), config.batch, config.seed).of_run(config.steps)
    visited = len(run)
    rows = run[:: -(-visited // SAMPLED_PROMPTS)]
    counts = Counter(data.prompts(rows.tolist()))
    if len(rows) == visited:
        return len(counts)
    once, twice = (sum(n == times for n in counts.values()) for times in (1, 2))
    return min(visited, len(counts) + once * (once - 1) // (2 * (twice + 1)))


def _disk(bench: Bench, objective: Objective, data: Any, kept: int) -> dict[str, int]:
    """One checkpoint more than `keep` exists while the next is written; `kept`: bytes of one prompt embedding."""
    config, trained, parts = bench.config, trained_bytes(bench), bench.parts
    model = trained if parts.lora else sum(v.nbytes for m in parts.modules.values() for v in m.state_dict().values())
    if parts.extra is not None and not parts.lora:
        model += module_bytes(parts.extra)
    checkpoint = model * (2 if config.ema else 1) + 2 * trained
    encoded = objective.needs.inputs == "latents" and objective.needs.images and hasattr(data, "pixels")
    read = hasattr(bench.backbone, "text_encoder") and objective.needs.inputs != "pixels"
    embedded = _distinct_prompts(data, config) if read and "text_encoder" not in parts.modules else 0
    return {
        "checkpoint": checkpoint,
        "checkpoints": checkpoint * (config.keep + 1),
        "latent cache": latent_bytes(bench, data) if encoded else 0,
        "prompt cache": embedded * kept,
        "samples": _sample_bytes(bench, config) if objective.needs.inputs == "latents" else 0,
    }


def _sample_bytes(bench: Bench, config: TrainConfig) -> int:
    """Grids before any compression: at the start, of the teacher, every `sample_every` steps and at the end."""
    side = ZOOM * getattr(bench.backbone.config, "resolution", 0)
    grids = 2 + -(-config.steps // config.sample_every)
    return grids * len(config.sample_prompts) * config.sample_seeds * 3 * side**2


def _duration(flops: float, config: TrainConfig, mfu: float, gpu: Gpu | None) -> Duration:
    dtype = torch.bfloat16 if config.precision == "bf16" else torch.float32
    rate = matmul_rate(dtype) if gpu is None else gpu.rate(config.precision)
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


def _assumptions(config: TrainConfig, mfu: float, gpu: Gpu | None) -> tuple[str, ...]:
    rate = "matrix-product rate measured on this machine just now" if gpu is None else f"peak of {gpu.name}"
    checkpointing = ", with what gradient checkpointing computes again" if any(config.recomputed) else ""
    return (
        f"time: a step reaches {mfu:.0%} of the {rate}",
        "time: sample grids, encoding, saving and telemetry come on top",
        "memory: frozen encoders lie in the machine's memory while steps run; under FSDP, a block at a time is whole",
        "memory: what kernels and the allocator take for themselves, telemetry and the drawing of grids come on top",
        *(("memory: counted without torch.compile, which keeps less",) if config.compile else ()),
        f"FLOPs: matrix products, convolutions and attention{checkpointing}; not those of a frozen text encoder",
        "prompts: as long as the longest of the first micro-batch",
    )
