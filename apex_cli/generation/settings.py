"""How a model is sampled: the section `[sample]` of a recipe, and what a checkpoint's contract says."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from apex_cli.config import Section
from apex_cli.errors import UsageError

FEW_STEP_SIGMAS = {1: (1.0, 0.0), 2: (1.0, 0.6, 0.0), 4: (1.0, 0.83, 0.67, 0.5, 0.0)}
"""Sigmas for 1, 2 and 4 evaluations with the renoise sampler."""
FOR_GUIDANCE = ("negative_prompt", "guidance_rescale")
"""Settings that say nothing at guidance 1."""


class SampleConfig(Section):
    """Saved in a checkpoint's contract, so that `apex sample --ckpt` needs no flag."""

    sampler: Literal["euler", "heun", "renoise"] = "renoise"
    nfe: int = Field(default=1, ge=1)
    """Network evaluations per image. Guidance costs two a step, and so halves the steps."""
    guidance: float = Field(default=1.0, ge=0)
    """v_uncond + guidance (v_cond - v_uncond); 1 means none and costs nothing."""
    time_shift: float = Field(default=1.0, gt=0)
    """Moves the even grid of `nfe` towards noise: s -> time_shift s / (1 + (time_shift - 1) s)."""
    sigmas: tuple[float, ...] | None = Field(default=None, min_length=2)
    """Explicit noise levels from 1 to 0, instead of the even grid of `nfe`."""
    negative_prompt: str | None = None
    """What v_uncond is conditioned on; None is the empty prompt."""
    guidance_rescale: Literal["patch"] | None = None
    """"patch": the guided velocity is given the length of v_cond in every patch of the latents, as Qwen-Image's stock
    pipeline does (`true_cfg_scale`)."""

    @field_validator("sigmas", mode="after")
    @classmethod
    def _ordered(cls, sigmas: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if sigmas is not None and (sigmas[0] > 1 or sigmas[-1] != 0 or list(sigmas) != sorted(set(sigmas))[::-1]):
            raise ValueError("must fall from at most 1 to 0")
        return sigmas

    @model_validator(mode="after")
    def _affordable(self) -> SampleConfig:
        if (cost := self._cost()) != self.nfe:
            how = "these sigmas take" if self.sigmas else f"{self.sampler} at guidance {self.guidance:g} can take"
            raise ValueError(f"{how} {cost} evaluations, not nfe = {self.nfe}; set nfe = {cost}")
        return self

    @model_validator(mode="after")
    def _heard(self) -> SampleConfig:
        """What would be ignored is an error."""
        if self.guidance == 1 and (idle := [name for name in FOR_GUIDANCE if getattr(self, name) is not None]):
            raise ValueError(f"{' and '.join(idle)} changes nothing at guidance 1; leave it out, or set guidance")
        few = self._few_steps() if self.sigmas is None else None
        if self.time_shift != 1 and few and len(few) > 2:  # a single step has no level that could move
            levels = ", ".join(f"{sigma:g}" for sigma in few)
            raise ValueError(
                f"time_shift does not move the noise levels of renoise at {len(few) - 1} steps, {levels}; "
                "leave it out, or set sigmas"
            )
        return self

    def _cost(self) -> int:
        """Evaluations that `grid()` spends: Heun's method two a step and one for the last, guidance twice that."""
        steps = len(self.grid()) - 1
        return (2 * steps - 1 if self.sampler == "heun" else steps) * (1 if self.guidance == 1 else 2)

    def grid(self) -> tuple[float, ...]:
        """The noise levels that spend `nfe` evaluations."""
        if self.sigmas is not None:
            return self.sigmas
        if few := self._few_steps():
            return few
        steps = self._steps()
        even = [1 - i / steps for i in range(steps + 1)]
        return tuple(self.time_shift * s / (1 + (self.time_shift - 1) * s) for s in even)

    def _steps(self) -> int:
        steps = max(1, self.nfe // 2) if self.guidance != 1 else self.nfe
        return (steps + 1) // 2 if self.sampler == "heun" else steps

    def _few_steps(self) -> tuple[float, ...] | None:
        """The noise levels of its own that renoise has at few steps."""
        return FEW_STEP_SIGMAS.get(self._steps()) if self.sampler == "renoise" else None

    def times(self) -> tuple[float, ...]:
        """The noise levels at which the network is asked: all but the last, 0."""
        return self.grid()[:-1]

    def changed(
        self, nfe: int | None = None, sampler: str | None = None, guidance: float | None = None
    ) -> SampleConfig:
        """These settings with those that are given in their place; themselves where that changes nothing.

        Explicit `sigmas` are for the settings they came with and go with them. One evaluation leaves no room for
        guidance, which takes two, and what is for guidance alone goes with it. Raises `UsageError` for what cannot be.
        """
        guidance = 1.0 if nfe == 1 and guidance is None else guidance
        given = {"nfe": nfe, "sampler": sampler, "guidance": guidance}
        changes = {name: value for name, value in given.items() if value not in (None, getattr(self, name))}
        if not changes:
            return self
        idle = dict.fromkeys(FOR_GUIDANCE) if guidance == 1 else {}
        try:
            return SampleConfig(**{**self.model_dump(), **changes, **idle, "sigmas": None})
        except ValidationError as error:
            told = ", ".join(f"{name} = {value}" for name, value in changes.items())
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UsageError(f"This model cannot be sampled at {told}: {reason}.", "Choose other values.") from error

    def with_nfe(self, nfe: int) -> SampleConfig:
        """`changed` in the number of evaluations alone."""
        return self.changed(nfe=nfe)
