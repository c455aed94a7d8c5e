"""Which weights each term may touch. The toy has one weight for each branch: `real` under c, `fake` under c_fake."""

from __future__ import annotations

import pytest
import torch
from tiny_networks import Toy, make_draws

from apex_cli.flow import path
from apex_cli.objectives.apex import Apex, correction
from apex_cli.objectives.base import Nets

LEARNED = {"kind": "diagonal", "learned": True}


def terms(toy, batch, other=None, **config):
    """The objective, its draws and the loss of one step."""
    objective = Apex(Apex.Config.model_validate(config), 1)
    draws = make_draws(objective)
    return objective, draws, objective.loss(Nets(toy, other), batch, draws)


def touched(part, **weights) -> set[str]:
    """Names of the weights that get a gradient other than zero from `part`."""
    found = torch.autograd.grad(part, list(weights.values()), retain_graph=True, allow_unused=True)
    return {name for name, g in zip(weights, found, strict=True) if g is not None and bool(g.abs().sum() > 0)}


@pytest.mark.parametrize(
    ("config", "part", "expected"),
    [
        ({}, "match", {"real"}),
        ({}, "sup", {"real"}),
        ({}, "fake", {"fake", "shift"}),
        ({"fake_gradient": "through"}, "fake", {"real", "fake", "shift"}),
        ({"supervision": "mix"}, "mix", {"real"}),
        ({"lambda_g": 0}, "fake", {"real", "fake", "shift"}),
        ({"lambda_g": 0, "fake_gradient": "stop"}, "fake", {"fake", "shift"}),
        ({"lambda_g": 0}, "mix", {"real"}),
        ({"lambda_g": 0, "mix": 1.0}, "mix", {"real"}),
    ],
)
def test_a_term_trains_its_own_branch_only(toy, toy_batch, config, part, expected):
    objective, _, loss = terms(toy, toy_batch, condition_shift=LEARNED, **config)
    assert touched(loss.parts[part], real=toy.real, fake=toy.fake, shift=objective.shift.tokens.a) == expected


@pytest.mark.parametrize("normalise", ["none", "clamp", "dmd"])
@pytest.mark.parametrize("real", ["self", "base"])
def test_match_gradient_comes_through_the_sample_alone(toy, toy_batch, real, normalise):
    """With dv a constant, d L_match / d gain = mean(-2 dv d x_g / d gain), although v_real is the same network."""
    base = Toy()
    objective, draws, loss = terms(toy, toy_batch, base, lambda_e=0, real=real, match_normalise=normalise)
    x_in, t_g = draws["noise_g"], draws["t_g"]
    with torch.no_grad():
        x_g = path.endpoint(toy(x_in, t_g, toy_batch.cond), x_in, t_g)
        x_s = path.interpolate(x_g, draws["noise_s"], draws["s"])
        v_fake = toy(x_s, draws["s"], objective.shift(toy_batch.cond))
        v_real = (toy if real == "self" else base)(x_s, draws["s"], toy_batch.cond)
        dv = correction(v_fake, v_real, x_g, draws["noise_s"], normalise)
    (gradient,) = torch.autograd.grad(loss.parts["match"], toy.real)
    torch.testing.assert_close(gradient, (-2 * dv * -x_in).mean())


@pytest.mark.parametrize("real", ["base", "ema"])
def test_the_real_network_never_gets_a_gradient(toy, toy_batch, real):
    other = Toy()
    terms(toy, toy_batch, other, real=real)[2].total.backward()
    assert other.real.grad is None
    assert other.fake.grad is None
    assert toy.real.grad is not None


def test_watched_values_carry_no_gradient(toy, toy_batch):
    for config in ({}, {"supervision": "mix"}, {"lambda_g": 0}):
        _, _, loss = terms(toy, toy_batch, **config)
        assert loss.watch
        assert not any(value.requires_grad for value in loss.watch.values())
        assert all(value.shape == (len(toy_batch),) for value in loss.watch.values())
