"""Plain flow matching (Eq 4): E || F(x_t, t, c) - (z - x) ||^2, with caption dropout for later guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from apex_cli.config import Section
from apex_cli.flow.condition import Cond
from apex_cli.flow.path import interpolate, velocity_target
from apex_cli.flow.times import TimesConfig, Uniform
from apex_cli.flow.weighting import Weighting, squared_error, weight
from apex_cli.objectives.base import Batch, Draws, Loss, Needs, Nets


class FlowMatchingConfig(Section):
    times: TimesConfig = Uniform()
    weighting: Weighting = "uniform"
    caption_dropout: float = Field(default=0.0, ge=0, le=1)
    """Share of rows that see the empty prompt."""


class FlowMatching:
    """Trains a velocity field: the teacher, and the baseline every other objective is compared with."""

    Config = FlowMatchingConfig
    modules: nn.Module | None = None

    def __init__(self, config: FlowMatchingConfig):
        self.config = config
        self.needs = Needs(uncond=config.caption_dropout > 0)

    def draw(self, shape: Sequence[int], gen: Generator, progress: float = 0.0) -> Draws:
        """`t` [B], `noise` of `shape`, `drop` [B]: rows that lose their caption."""
        return {
            "t": self.config.times.sample(shape[0], gen, progress),
            "noise": torch.randn(tuple(shape), generator=gen, device=gen.device),
            "drop": torch.rand(shape[0], generator=gen, device=gen.device) < self.config.caption_dropout,
        }

    def loss(self, nets: Nets, batch: Batch, draws: Draws) -> Loss:
        t, noise = draws["t"], draws["noise"]
        cond = batch.cond
        if self.config.caption_dropout > 0:
            cond = cond.where(draws["drop"], cast(Cond, batch.uncond))
        velocity = nets.student(interpolate(batch.x, noise, t), t, cond)
        error: Tensor = squared_error(velocity, velocity_target(batch.x, noise))
        return Loss(
            parts={"fm": (weight(self.config.weighting, t) * error).mean()},
            weights={"fm": 1.0},
            watch={"t": t, "error": error.detach()},
        )
