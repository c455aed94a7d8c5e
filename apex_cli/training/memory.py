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
    network, idle = bench.backbone.network, _idle(bench, objective)
    trained, adapters = trained_bytes(bench), _adapters(bench)
    sharded = Sharded(network, bench, adapters) if bench.config.sharding == "fsdp" and ranks > 1 else None
    held = trained if sharded is None else trained - sharded.trained * (ranks - 1) // ranks
    frozen = sum(module_bytes(module) for module in bench.modules.values()) - idle - trained
    copied = module_bytes(network) if _copies(bench, objective) else 0
    if sharded is not None:
        frozen -= sharded.frozen * (ranks - 1) // ranks
        copied -= parameter_bytes(network) * (ranks - 1) // ranks if copied else 0
    away = away_bytes(network)
    state = {
        "frozen weights": frozen,
        "trained weights": held - adapters,
        "LoRA": adapters,
        "optimizer": 2 * held,
        "average": held if bench.config.ema else 0,
        "real network": copied,
        "gathered weights": sharded.gathered if sharded is not None else max(away, default=0) if on_gpu else 0,
    }
    host = {
        "idle encoders": idle,
        "offloaded weights": sum(away),
        "latents": 0 if hasattr(data, "pixels") else latent_bytes(bench, data),
    }
    step = cost.peak - (trained - held)
    update = held * (2 if ranks > 1 else 1)  # several ranks average one flat copy
    passing = max(step, update, idle) if on_gpu else max(step, update) + sum(host.values())
    return Memory(state | {"gradients": held, "activations": cost.activations}, host, sum(state.values()) + passing)


class Sharded:
    """What FSDP2 shares out of a transformer (see sharding.py), in bytes over all ranks."""

    def __init__(self, network: nn.Module, bench: Bench, adapters: int):
        lora, config = bench.parts.lora, bench.config
        weights = parameter_bytes(network) - adapters
        self.trained, self.frozen = (0, weights) if lora else (weights, 0)
        sizes = [parameter_bytes(block) for block in blocks(network)]
        largest, outside = max(sizes), weights + adapters - sum(sizes)
        once = largest + outside
        in_bf16 = config.precision == "bf16" and min(config.recomputed) < 1
        self.gathered = once * (1 if lora else 2) + (weights // 2 if in_bf16 else 0)
        """A block at a time and what is in none, with their gradients; autocast's copies of all until the backward."""


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


def parameter_bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in module.parameters())


def module_bytes(module: nn.Module) -> int:
    return sum(value.nbytes for value in (*module.parameters(), *module.buffers()))


def latent_bytes(bench: Bench, data: Any) -> int:
    return len(data) * prod(bench.backbone.latent_shape) * LATENT
