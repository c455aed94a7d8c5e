"""Where on the path a step trains: distributions of t in [0, 1] (1 = noise), one config class each.

In a recipe:  times = { kind = "logit_normal", mean = 0.0, std = 1.0, time_shift = 3.0 }
              times = { kind = "mixture", parts = [{ kind = "point" }, { kind = "uniform" }], weights = [1, 1] }

A mixture may shift its weights in the course of a run, e.g. from the coarse to the fine: `weights_at_end = [0, 1]`.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, field_validator, model_validator
from torch import Generator, Tensor

from apex_cli.config import Section


def time_shift(t: Tensor, shift: float) -> Tensor:
    """shift t / (1 + (shift - 1) t): moves t towards noise for shift > 1, keeps 0 and 1 (SD3, arXiv 2403.03206)."""
    return shift * t / (1 + (shift - 1) * t)


class _Times(Section):
    time_shift: PositiveFloat = 1.0

    def sample(self, n: int, gen: Generator, progress: float = 0.0) -> Tensor:
        """`n` independent times, float32 [n], on the generator's device; `progress`: share of the run that is done."""
        return time_shift(self._draw(n, gen, progress), self.time_shift)

    def _draw(self, n: int, gen: Generator, progress: float) -> Tensor:
        raise NotImplementedError


class Uniform(_Times):
    kind: Literal["uniform"] = "uniform"

    def _draw(self, n: int, gen: Generator, progress: float) -> Tensor:
        return torch.rand(n, generator=gen, device=gen.device)


class LogitNormal(_Times):
    """sigmoid of a normal variable."""

    kind: Literal["logit_normal"] = "logit_normal"
    mean: float = 0.0
    std: PositiveFloat = 1.0

    def _draw(self, n: int, gen: Generator, progress: float) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.randn(n, generator=gen, device=gen.device))


class Beta(_Times):
    """Beta(a, b), mean a / (a + b)."""

    kind: Literal["beta"] = "beta"
    a: PositiveFloat = 1.0
    b: PositiveFloat = 1.0

    def _draw(self, n: int, gen: Generator, progress: float) -> Tensor:
        # torch.distributions takes no generator, the sampler beneath it does; float64 keeps tiny shapes from 0 / 0.
        shape = torch.tensor([[self.a], [self.b]], dtype=torch.float64, device=gen.device).expand(2, n)
        first, second = torch._standard_gamma(shape, generator=gen)
        return (first / (first + second)).float()


class Point(_Times):
    """Always the same time; at = 1 is pure noise, where one-step sampling starts."""

    kind: Literal["point"] = "point"
    at: float = Field(default=1.0, ge=0, le=1)

    def _draw(self, n: int, gen: Generator, progress: float) -> Tensor:
        return torch.full((n,), self.at, device=gen.device)


SimpleTimes = Annotated[Uniform | LogitNormal | Beta | Point, Field(discriminator="kind")]


class Mixture(_Times):
    """Each sample takes its time from one of `parts`, chosen with probability proportional to `weights`."""

    kind: Literal["mixture"] = "mixture"
    # Lists: behind a discriminator pydantic's strict mode no longer takes a JSON list for a tuple.
    parts: list[SimpleTimes] = Field(min_length=1)
    weights: list[NonNegativeFloat]
    weights_at_end: list[NonNegativeFloat] | None = None
    """What `weights` become in a straight line by the end of the run; None: they stay."""

    @field_validator("weights", "weights_at_end")
    @classmethod
    def _choose_some(cls, weights: list[float] | None) -> list[float] | None:
        if weights is not None and sum(weights) == 0:
            raise ValueError("at least one weight must be above 0")
        return weights

    @model_validator(mode="after")
    def _one_weight_each(self) -> Mixture:
        for weights in (self.weights, self.weights_at_end):
            if weights is not None and len(weights) != len(self.parts):
                raise ValueError(f"{len(self.parts)} parts need as many weights, got {len(weights)}")
        return self

    def _draw(self, n: int, gen: Generator, progress: float) -> Tensor:
        start = torch.tensor(self.weights, device=gen.device)
        end = start if self.weights_at_end is None else start.new_tensor(self.weights_at_end)
        part = torch.multinomial(start.lerp(end, progress), n, replacement=True, generator=gen)
        return torch.stack([p.sample(n, gen, progress) for p in self.parts]).gather(0, part[None])[0]


TimesConfig = Annotated[Uniform | LogitNormal | Beta | Point | Mixture, Field(discriminator="kind")]
