"""APEX: a flow model taught to be its own adversary through a shifted condition (arXiv 2604.12322).

F is the one network, c the prompt, c_fake = A c + b (Eq 9), f_x(v, x_t, t) = x_t - t v (Eq 10), sg = stop-gradient.

    fake    lambda_p   || F(x_t_fake, t, c_fake) - (z - x_fake) ||^2      Eq 12
    sup     lambda_e   1/omega || f_x(F, x_t, t) - x ||^2                 Eq 20, with supervision = "sup"
    mix     lambda_e   1/omega || f_x(F, x_t, t) - T_mix ||^2             Eq 24, with supervision = "mix"
    match   lambda_g   || x_g - sg(x_g + dv) ||^2                         the direction of Eq 17 and 27
                       with dv = F(x_s, s, c_fake) - v_real(x_s, s, c)

lambda_g = 0 is the paper's Eq 25 as written: everything at one real x_t, x_fake = f_x(F(x_t, t, c), x_t, t) (Eq 11).
lambda_g > 0 estimates Eq 27 where it says it lives, on the model's own samples: x_g = f_x(F(x_in, t_g, c), x_in, t_g)
is a generator sample, x_s = s z' + (1 - s) sg(x_g) a point of p_theta,s, and `fake` is fitted at the same x_s, so that
one forward under c_fake serves both terms.

With coupling = "data", `sup` and `mix` see each image with the very noise that a teacher made it from (the coupling of
rectified flow, arXiv 2209.03003) instead of a fresh one. At t = 1 `sup` is then the regression of DMD (arXiv
2311.18828): it shows the generator where this noise leads, which `match`, an average over all images, can hardly tell.

Norms are means over the elements of a sample: the paper's sums divided by one constant, the same in all terms.
`sup` and `mix` are computed in velocity space: equal by Prop 3 and 4, and finite at t = 0 (see flow/weighting.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal, cast

import torch
from pydantic import Field, NonNegativeFloat, field_validator, model_validator
from torch import Generator, Tensor

from apex_cli.config import Section
from apex_cli.flow.condition import Cond
from apex_cli.flow.condition_shift import ConditionShift, ConditionShiftConfig
from apex_cli.flow.guidance import Rescale, guided
from apex_cli.flow.path import endpoint, interpolate, velocity_target
from apex_cli.flow.times import Point, TimesConfig, Uniform
from apex_cli.flow.weighting import Weighting, squared_error, weight
from apex_cli.objectives.base import Batch, Draws, Loss, Needs, Nets, Real, Velocity

Query = tuple[Tensor, Tensor, Cond]
Normalise = Literal["none", "clamp", "dmd"]
PAPER = {"supervision": "mix", "weighting": "paper", "fake_gradient": "through"}


class ApexConfig(Section):
    lambda_p: NonNegativeFloat = 1.0
    lambda_e: NonNegativeFloat = 1.0
    lambda_g: NonNegativeFloat = 1.0
    supervision: Literal["mix", "sup"] = "sup"
    mix: float = Field(default=0.5, ge=0, le=1)
    """lambda of Eq 22-24: 0 is pure data, 1 pure self-consistency; for supervision = "mix"."""
    weighting: Weighting = "uniform"
    """Of sup and mix."""
    coupling: Literal["independent", "data", "real"] = "independent"
    """Image and noise of sup and mix: a fresh noise for each image; the noise that the data says its image was made
    from (reflow); or a fresh noise and what v_real makes of it in the Euler steps of `rollout`."""
    rollout: tuple[float, ...] = (1.0, 0.91, 0.82, 0.72, 0.6)
    """Times of coupling = "real", descending from 1; the last step goes to 0."""
    fake_gradient: Literal["through", "stop"] = "stop"
    """Whether L_fake also trains the sample it is fitted on (Eq 12: through; on own samples that undoes the match)."""
    real: Real = "self"
    guidance: float = 1.0
    """Of the real velocity in `match`: v_uncond + guidance (v_cond - v_uncond); 1 is none."""
    guidance_rescale: Rescale | None = None
    """"patch": the guided velocity is given the length of v_cond in every patch, as where Qwen-Image is sampled."""
    match_normalise: Normalise = "clamp"
    caption_dropout: float = Field(default=0.0, ge=0, le=1)
    """Share of rows that see the empty prompt in every term."""
    times: TimesConfig = Uniform()
    generator_times: TimesConfig = Point()
    renoise_times: TimesConfig = Uniform()
    condition_shift: ConditionShiftConfig = ConditionShiftConfig()

    @model_validator(mode="before")
    @classmethod
    def _paper_without_match(cls, data: Any) -> Any:
        """lambda_g = 0 asks for the paper's Eq 25, so what is not set follows the paper and not our defaults."""
        return PAPER | data if isinstance(data, dict) and data.get("lambda_g") == 0 else data

    @model_validator(mode="after")
    def _asks_another(self) -> ApexConfig:
        if self.coupling == "real" and self.real == "self":
            raise ValueError('coupling = "real" asks a network beside the student: set real = "base" or "ema"')
        return self

    @model_validator(mode="after")
    def _rescales_something(self) -> ApexConfig:
        if self.guidance_rescale is not None and self.guidance == 1:
            raise ValueError("guidance_rescale changes nothing at guidance 1; leave it out, or set guidance")
        return self

    @field_validator("rollout", mode="before")
    @classmethod
    def _listed_times(cls, times: Any) -> Any:
        """What passed the validator above is no JSON to pydantic any more, and a strict list fills no tuple."""
        return tuple(times) if isinstance(times, list) else times

    @field_validator("rollout")
    @classmethod
    def _descends_from_noise(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        if not times or times[0] != 1 or times[-1] <= 0 or any(s >= t for t, s in pairwise(times)):
            raise ValueError("must descend from 1 and stay above 0")
        return times

    @property
    def from_noise(self) -> bool:
        """Whether every term is about what is generated from pure noise, so that no image is ever read."""
        times = self.generator_times
        return self.lambda_e == 0 < self.lambda_g and times.kind == "point" and times.at == 1

    @model_validator(mode="after")
    def _has_a_term(self) -> ApexConfig:
        if self.lambda_p == self.lambda_e == self.lambda_g == 0:
            raise ValueError("lambda_p, lambda_e and lambda_g are all 0: nothing to train")
        return self


def ask(velocity: Velocity, *queries: Query) -> list[Tensor]:
    """Several questions (x_t, t, cond) of B rows each to one network in one forward; answers in the dtype of x_t."""
    x_t, t = (torch.cat(column) for column in list(zip(*queries, strict=True))[:2])
    answer = velocity(x_t, t, Cond.cat([cond for _, _, cond in queries]))
    return list(answer.to(x_t.dtype).chunk(len(queries)))


def fake_error(velocity: Tensor, x_fake: Tensor, noise: Tensor) -> Tensor:
    """Eq 12, [B]: the velocity under c_fake at x_t_fake learns the flow towards what the model generates now."""
    return squared_error(velocity, velocity_target(x_fake, noise))


def sup_error(velocity: Tensor, x: Tensor, noise: Tensor, t: Tensor, weighting: Weighting) -> Tensor:
    """Eq 20, [B], by Eq 18 (Prop 3) as a velocity error."""
    return weight(weighting, t) * squared_error(velocity, velocity_target(x, noise))


def cons_error(velocity: Tensor, v_fake: Tensor, t: Tensor, weighting: Weighting) -> Tensor:
    """Eq 21, [B], by Eq 19 (Prop 4) as a velocity error."""
    return weight(weighting, t) * squared_error(velocity, v_fake)


def mixed_velocity(x: Tensor, noise: Tensor, v_fake: Tensor, mix: float) -> Tensor:
    """Eq 23 as a velocity: its endpoint is T_mix = (1 - lambda) x + lambda f_x(v_fake, x_t, t)."""
    return (1 - mix) * velocity_target(x, noise) + mix * v_fake


def mix_error(
    velocity: Tensor, x: Tensor, noise: Tensor, v_fake: Tensor, t: Tensor, mix: float, weighting: Weighting
) -> Tensor:
    """Eq 24, [B]; its gradient is that of G = (1 - lambda) sup + lambda cons (Eq 22), Theorem 1."""
    return weight(weighting, t) * squared_error(velocity, mixed_velocity(x, noise, v_fake, mix))


def correction(v_fake: Tensor, v_real: Tensor, x_g: Tensor, noise: Tensor, how: Normalise) -> Tensor:
    """dv = v_fake - v_real (Eq 17). By Eq 5 the KL descent direction of a sample is +dv times a positive factor.

    `clamp` limits each element to [-1, 1]. `dmd` divides by the mean distance of x_g to the real endpoint
    (arXiv 2311.18828), per sample; both carry a factor s there, which cancels.
    """
    dv = v_fake - v_real
    match how:
        case "none":
            return dv
        case "clamp":
            return dv.clamp(-1, 1)
        case "dmd":
            distance = (v_real - velocity_target(x_g, noise)).abs().flatten(1).mean(1)
            return dv / distance.reshape(-1, *[1] * (dv.ndim - 1))


def match_error(x_g: Tensor, dv: Tensor) -> Tensor:
    """[B]. The gradient on x_g is -2 dv / D, so that descent moves the sample along +dv, the direction of Eq 27; its
    weight over time is ours (docs/method.md)."""
    return squared_error(x_g, (x_g + dv).detach())


def _noise(batch: Batch, draws: Draws) -> Tensor:
    """Of sup and mix, [B, C, h, w]."""
    return draws["noise"] if batch.noise is None else batch.noise


def norm(x: Tensor) -> Tensor:
    """Length of each sample, [B]."""
    return x.flatten(1).norm(dim=1)


class Apex:
    """lambda_p L_fake + lambda_e L_mix (or L_sup) + lambda_g L_match; `modules` is the condition shift.

    `cond_dim`, `pooled_dim` and `patch` are those of the backbone.
    """

    Config = ApexConfig

    def __init__(self, config: ApexConfig, cond_dim: int, pooled_dim: int = 0, patch: int = 1):
        self.config, self.patch = config, patch
        self.modules = self.shift = ConditionShift(config.condition_shift, cond_dim, pooled_dim)
        self.made = config.coupling == "real" and config.lambda_e > 0
        asked = config.lambda_g > 0 or self.made
        self.guided = asked and config.guidance != 1
        self.mixed = config.lambda_e > 0 and config.supervision == "mix" and config.mix > 0
        self.needs = Needs(
            real=config.real if asked else None,
            uncond=self.guided or config.caption_dropout > 0,
            images=not self.made and not config.from_noise,
            noise=config.lambda_e > 0 and config.coupling == "data",
        )

    def draw(self, shape: Sequence[int], gen: Generator, progress: float = 0.0) -> Draws:
        """All numbers of a step whatever the weights, so that runs with different weights see the same ones.

        For the real point `t`, `noise`; the generator `t_g`, `noise_g`; its re-noised sample `s`, `noise_s`; `drop`:
        rows that lose their caption.
        """
        c, n = self.config, shape[0]
        times = {"t": c.times, "t_g": c.generator_times, "s": c.renoise_times}
        draws = {name: sampler.sample(n, gen, progress) for name, sampler in times.items()}
        for name in ("noise", "noise_g", "noise_s"):
            draws[name] = torch.randn(tuple(shape), generator=gen, device=gen.device)
        return draws | {"drop": torch.rand(n, generator=gen, device=gen.device) < c.caption_dropout}

    def loss(self, nets: Nets, batch: Batch, draws: Draws) -> Loss:
        if self.config.caption_dropout > 0:
            batch = replace(batch, cond=batch.cond.where(draws["drop"], cast(Cond, batch.uncond)))
        if self.made:
            batch = replace(batch, x=self._made_of(nets, batch, draws["noise"]))
        apart = self.config.fake_gradient == "stop" and not batch.cond.tokens.requires_grad
        loss = Loss(parts={}, weights={}, apart=("fake",) if apart else ())
        terms = self._on_own_samples if self.config.lambda_g > 0 else self._on_data
        terms(loss, nets, batch, draws)
        return loss

    def _on_data(self, loss: Loss, nets: Nets, batch: Batch, draws: Draws) -> None:
        """Eq 25: one real x_t serves all terms."""
        t, noise = draws["t"], _noise(batch, draws)
        x_t = interpolate(batch.x, noise, t)
        (velocity,) = ask(nets.student, (x_t, t, batch.cond))
        if self.config.lambda_p > 0:
            self._fake(loss, nets, batch, endpoint(velocity, x_t, t), noise, t)
        self._supervised(loss, nets, batch, draws, velocity)

    def _on_own_samples(self, loss: Loss, nets: Nets, batch: Batch, draws: Draws) -> None:
        """Eq 27: `match` and `fake` live on generator samples. The two forwards under c share one batch."""
        t_g, t = draws["t_g"], draws["t"]
        x_in = interpolate(batch.x, draws["noise_g"], t_g)
        queries = [(x_in, t_g, batch.cond)]
        if self.config.lambda_e > 0:
            queries.append((interpolate(batch.x, _noise(batch, draws), t), t, batch.cond))
        v_g, *velocity = ask(nets.student, *queries)
        x_g = endpoint(v_g, x_in, t_g)
        self._match(loss, nets, batch, draws, x_g)
        self._supervised(loss, nets, batch, draws, *velocity)

    def _fake(self, loss: Loss, nets: Nets, batch: Batch, x_fake: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Adds L_fake; returns sg F(x_t_fake, t, c_fake), which is v_fake there."""
        x_fake = x_fake if self.config.fake_gradient == "through" else x_fake.detach()
        (velocity,) = ask(nets.student, (interpolate(x_fake, noise, t), t, self.shift(batch.cond)))
        error = fake_error(velocity, x_fake, noise)
        self._add(loss, "fake", error, self.config.lambda_p)
        loss.watch |= {"fake_t": t, "fake_error": error.detach()}
        return velocity.detach()

    def _supervised(self, loss: Loss, nets: Nets, batch: Batch, draws: Draws, velocity: Tensor | None = None) -> None:
        c, t, noise = self.config, draws["t"], _noise(batch, draws)
        if velocity is None or c.lambda_e == 0:
            return
        if self.mixed:
            v_fake = self._fake_velocity(nets, interpolate(batch.x, noise, t), t, batch.cond)
            error = mix_error(velocity, batch.x, noise, v_fake, t, c.mix, c.weighting)
            loss.watch["cons_error"] = cons_error(velocity.detach(), v_fake, t, "uniform")
        else:
            error = sup_error(velocity, batch.x, noise, t, c.weighting)
        self._add(loss, c.supervision, error, c.lambda_e)
        loss.watch |= {"t": t, "error": squared_error(velocity.detach(), velocity_target(batch.x, noise))}

    @torch.no_grad()
    def _fake_velocity(self, nets: Nets, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """v_fake = sg F(x_t, t, c_fake) (Eq 14)."""
        return ask(nets.student, (x_t, t, self.shift(cond)))[0]

    def _match(self, loss: Loss, nets: Nets, batch: Batch, draws: Draws, x_g: Tensor) -> None:
        s, noise, sample = draws["s"], draws["noise_s"], x_g.detach()
        x_s = interpolate(sample, noise, s)
        if self.config.lambda_p > 0:
            v_fake = self._fake(loss, nets, batch, x_g, noise, s)
        else:
            v_fake = self._fake_velocity(nets, x_s, s, batch.cond)
        v_real, v_cond = self._real_velocity(nets, batch, x_s, s)
        dv = correction(v_fake, v_real, sample, noise, self.config.match_normalise)
        self._add(loss, "match", match_error(x_g, dv), self.config.lambda_g)
        loss.watch |= {
            "s": s,
            "match_error": squared_error(v_fake, v_real),
            "shift_distance": norm(v_fake - v_cond) / norm(v_cond),
            "saturation": ((v_fake - v_real).abs() > 1).flatten(1).float().mean(1),
            "sample_std": sample.flatten(1).std(1),
        }

    @torch.no_grad()
    def _made_of(self, nets: Nets, batch: Batch, noise: Tensor) -> Tensor:
        """Where v_real leads each noise, in the Euler steps of `rollout`, [B, C, h, w]."""
        x_t, times = noise, [noise.new_full((len(batch),), t) for t in self.config.rollout]
        for t, following in zip(times, [*times[1:], 0 * times[0]], strict=True):
            velocity = self._guided(ask(cast(Velocity, nets.real), *self._real_queries(batch, x_t, t)))
            x_t = x_t + (following - t).reshape(-1, *[1] * (x_t.ndim - 1)) * velocity
        return x_t

    def _real_queries(self, batch: Batch, x_t: Tensor, t: Tensor) -> list[Query]:
        return [(x_t, t, batch.cond)] + ([(x_t, t, cast(Cond, batch.uncond))] if self.guided else [])

    def _guided(self, answers: Sequence[Tensor]) -> Tensor:
        """v_real of the answers to `_real_queries`."""
        if not self.guided:
            return answers[0]
        cond, uncond = answers
        return guided(cond, uncond, self.config.guidance, self.config.guidance_rescale, self.patch)

    @torch.no_grad()
    def _real_velocity(self, nets: Nets, batch: Batch, x_s: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        """(v_real, v_real before guidance) at x_s."""
        network = nets.student if self.config.real == "self" else cast(Velocity, nets.real)
        answers = ask(network, *self._real_queries(batch, x_s, s))
        return self._guided(answers), answers[0]

    def _add(self, loss: Loss, name: str, error: Tensor, factor: float) -> None:
        loss.parts[name], loss.weights[name] = error.mean(), factor
