"""Samplers on fields whose answer is known, and against diffusers' scheduler."""

from __future__ import annotations

import pytest
import torch

from apex_cli.flow.condition import Cond
from apex_cli.registry import names, resolve

SHAPE = (3, 2, 4, 4)
SIGMAS = (1.0, 0.7, 0.25, 0.0)
NOISE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
COND = Cond(torch.zeros(3, 1, 1), torch.ones(3, 1, dtype=torch.bool))


def gens(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def grown(x_t, t, cond):
    """dx/dt = x."""
    return x_t


@pytest.mark.parametrize("sampler", names("sampler"))
@pytest.mark.parametrize("sigmas", [SIGMAS, (1.0, 0.0)])
def test_straight_lines_end_exactly(sampler, sigmas):
    """v = (x_t - x) / t points away from one x everywhere: every sampler arrives there, whatever its steps."""
    x = torch.full(SHAPE, 0.3, dtype=torch.float64)
    end = resolve("sampler", sampler)(
        lambda x_t, t, cond: (x_t - x) / t[:, None, None, None], NOISE, sigmas, COND, gens(1, 2, 3)
    )
    torch.testing.assert_close(end, x)


def test_euler_on_a_linear_field():
    """x + h x at each step h."""
    factor = (1 - 0.3) * (1 - 0.45) * (1 - 0.25)
    torch.testing.assert_close(resolve("sampler", "euler")(grown, NOISE, SIGMAS, COND, []), factor * NOISE)


def test_heun_on_a_linear_field():
    """x + h x + h^2 x / 2 at each step h, and Euler's at the last."""
    factor = (1 - 0.3 + 0.3**2 / 2) * (1 - 0.45 + 0.45**2 / 2) * (1 - 0.25)
    torch.testing.assert_close(resolve("sampler", "heun")(grown, NOISE, SIGMAS, COND, []), factor * NOISE)


def test_renoise_is_the_stochastic_scheduler_of_diffusers():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0, stochastic_sampling=True)
    scheduler.set_timesteps(sigmas=list(SIGMAS[:-1]))
    noise = NOISE.float()
    x_t, own = noise, gens(1, 2, 3)
    for t in scheduler.timesteps:
        x_t = scheduler.step(0.3 * x_t, t, x_t, generator=own, return_dict=False)[0]
    end = resolve("sampler", "renoise")(lambda x, t, c: 0.3 * x, noise, SIGMAS, COND, gens(1, 2, 3))
    torch.testing.assert_close(end, x_t, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sampler", names("sampler"))
def test_a_row_does_not_depend_on_the_others(sampler):
    sample = resolve("sampler", sampler)
    together = sample(grown, NOISE, SIGMAS, COND, gens(1, 2, 3))
    alone = sample(grown, NOISE[1:2], SIGMAS, COND.select(slice(1, 2)), gens(2))
    assert torch.equal(together[1:2], alone)
