"""Time samplers: range, moments against the formulas, mixtures by sample, and the configs as recipes write them."""

from __future__ import annotations

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from apex_cli.flow.times import TimesConfig, time_shift

N = 200_000


def times(config: dict, n: int = N, seed: int = 0, progress: float = 0.0) -> torch.Tensor:
    return TypeAdapter(TimesConfig).validate_python(config).sample(n, torch.Generator().manual_seed(seed), progress)


ALL = [
    {"kind": "uniform"},
    {"kind": "logit_normal", "mean": -0.5, "std": 2.0},
    {"kind": "beta", "a": 0.01, "b": 0.02},
    {"kind": "point"},
    {"kind": "mixture", "parts": [{"kind": "point", "at": 0.25}, {"kind": "uniform"}], "weights": [1, 3]},
]


@pytest.mark.parametrize("config", ALL, ids=lambda c: c["kind"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_every_sampler_gives_finite_float32_times_on_the_path(config, shift):
    t = times(config | {"time_shift": shift}, 1000)
    assert t.shape == (1000,)
    assert t.dtype == torch.float32
    assert bool(((t >= 0) & (t <= 1)).all())
    assert torch.equal(t, times(config | {"time_shift": shift}, 1000))


@pytest.mark.parametrize("config", ALL, ids=lambda c: c["kind"])
def test_one_sample(config):
    assert times(config, 1).shape == (1,)


def test_moments():
    assert times({"kind": "uniform"}).var().item() == pytest.approx(1 / 12, abs=2e-3)
    logit = times({"kind": "logit_normal", "mean": -0.5, "std": 0.7}).logit()
    assert (logit.mean().item(), logit.std().item()) == pytest.approx((-0.5, 0.7), abs=1e-2)
    beta = times({"kind": "beta", "a": 2.0, "b": 3.0})
    assert (beta.mean().item(), beta.var().item()) == pytest.approx((0.4, 0.04), abs=2e-3)


def test_point_defaults_to_pure_noise():
    assert bool((times({"kind": "point"}, 10) == 1).all())


def test_mixture_decides_for_each_sample():
    t = times(ALL[-1])
    assert (t == 0.25).float().mean().item() == pytest.approx(0.25, abs=5e-3)
    assert t[t != 0.25].mean().item() == pytest.approx(0.5, abs=5e-3)


@pytest.mark.parametrize(("progress", "late"), [(0.0, 0.0), (0.5, 0.5), (1.0, 0.75)])
def test_mixture_shifts_its_weights_in_the_course_of_a_run(progress, late):
    parts = [{"kind": "point", "at": 0.5}, {"kind": "point", "at": 0.1}]
    config = {"kind": "mixture", "parts": parts, "weights": [1, 0], "weights_at_end": [0.5, 1.5]}
    share = (times(config, progress=progress) == 0.1).float().mean().item()
    assert share == pytest.approx(late, abs=5e-3)


@pytest.mark.parametrize("weights", [[0, 0], [1], [1, -1]])
def test_mixture_refuses_weights_that_choose_nothing(weights):
    parts = [{"kind": "uniform"}, {"kind": "point"}]
    for named in ({"weights": weights}, {"weights": [1, 1], "weights_at_end": weights}):
        with pytest.raises(ValidationError):
            times({"kind": "mixture", "parts": parts, **named})


def test_mixture_wants_a_weight_for_each_part():
    with pytest.raises(ValidationError, match="2 parts need as many weights, got 1"):
        times(ALL[-1] | {"weights": [1]})


def test_time_shift_keeps_the_ends_and_its_inverse_is_its_reciprocal():
    t = torch.linspace(0, 1, 11)
    assert time_shift(t, 3.0)[[0, -1]].tolist() == [0, 1]
    assert time_shift(torch.tensor(0.5), 3.0).item() == 0.75
    torch.testing.assert_close(time_shift(time_shift(t, 3.0), 1 / 3), t)
