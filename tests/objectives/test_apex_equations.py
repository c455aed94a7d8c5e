"""Every equation of the paper that `objectives/apex.py` follows, in the paper's words, on a real network in float64."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from pydantic import ValidationError
from tiny_networks import DIM, make_draws

from apex_cli.flow import path
from apex_cli.flow.condition import Cond
from apex_cli.flow.weighting import Weighting, squared_error
from apex_cli.generation import CountedVelocity
from apex_cli.objectives import apex
from apex_cli.objectives.apex import Apex
from apex_cli.objectives.base import Nets


def objective(**config) -> Apex:
    return Apex(Apex.Config.model_validate(config), DIM)


@pytest.fixture
def point(batch):
    """(noise, t, x_t) of a real point strictly inside the path."""
    draws = make_draws(objective())
    t = 0.01 + 0.98 * draws["t"]
    return draws["noise"], t, path.interpolate(batch.x, draws["noise"], t)


def shifted(cond: Cond) -> Cond:
    """a = -0.5, b = 1 on real tokens (Eq 9), written out."""
    return Cond(torch.where(cond.mask[..., None], -0.5 * cond.tokens + 1, cond.tokens), cond.mask)


@pytest.mark.parametrize("weighting", get_args(Weighting))
@pytest.mark.parametrize("mix", [0.0, 0.3, 1.0])
def test_theorem_1_mix_and_alternative_loss_have_one_gradient(student, batch, point, mix, weighting):
    """grad L_mix (Eq 24) == grad G = (1 - lambda) grad L_sup + lambda grad L_cons (Eq 22)."""
    noise, t, x_t = point
    with torch.no_grad():
        v_fake = student(x_t, t, shifted(batch.cond))
    velocity = student(x_t, t, batch.cond)
    sup = apex.sup_error(velocity, batch.x, noise, t, weighting).mean()
    cons = apex.cons_error(velocity, v_fake, t, weighting).mean()
    alternative = student.gradients((1 - mix) * sup + mix * cons)
    velocity = student(x_t, t, batch.cond)
    mixed = student.gradients(apex.mix_error(velocity, batch.x, noise, v_fake, t, mix, weighting).mean())
    assert alternative.norm() > 0
    assert (mixed - alternative).norm() <= 1e-6 * alternative.norm()


def test_mixed_target_and_losses_as_the_paper_writes_them(batch, point):
    """Eq 20, 21, 23 and 24 in endpoint space with 1 / omega(t) = (1 - t) / t."""
    noise, t, x_t = point
    velocity, v_fake = torch.randn(2, *x_t.shape, dtype=x_t.dtype)
    f_x, f_fake = path.endpoint(velocity, x_t, t), path.endpoint(v_fake, x_t, t)
    target = 0.7 * batch.x + 0.3 * f_fake
    torch.testing.assert_close(path.endpoint(apex.mixed_velocity(batch.x, noise, v_fake, 0.3), x_t, t), target)
    weight = (1 - t) / t
    for ours, paper in (
        (apex.sup_error(velocity, batch.x, noise, t, "paper"), squared_error(f_x, batch.x)),
        (apex.cons_error(velocity, v_fake, t, "paper"), squared_error(f_x, f_fake)),
        (apex.mix_error(velocity, batch.x, noise, v_fake, t, 0.3, "paper"), squared_error(f_x, target)),
    ):
        torch.testing.assert_close(ours, weight * paper)


def test_without_match_it_is_equation_25_to_the_letter(student, batch):
    """An independent transcription of Eq 9-12 and 20-25, one sample at a time, value and gradient."""
    ours = objective(lambda_p=0.8, lambda_e=1.3, lambda_g=0, mix=0.4)
    draws = make_draws(ours)
    loss = ours.loss(Nets(student), batch, draws)

    fake_sum = mix_sum = torch.zeros((), dtype=torch.float64)
    for i in range(len(batch)):
        x, z, t = batch.x[i : i + 1], draws["noise"][i : i + 1], draws["t"][i]
        c = batch.cond.select(slice(i, i + 1))
        c_fake, time = shifted(c), t[None]
        x_t = t * z + (1 - t) * x
        velocity = student(x_t, time, c)
        x_fake = x_t - t * velocity
        x_t_fake = t * z + (1 - t) * x_fake
        fake_sum = fake_sum + (student(x_t_fake, time, c_fake) - (z - x_fake)).square().mean()
        v_fake = student(x_t, time, c_fake).detach()
        t_mix = (1 - 0.4) * x + 0.4 * (x_t - t * v_fake)
        mix_sum = mix_sum + (1 - t) / t * ((x_t - t * velocity) - t_mix).square().mean()
    paper = (0.8 * fake_sum + 1.3 * mix_sum) / len(batch)

    # SANA's linear attention works in float32 inside, whatever the weights, so batches agree to its precision.
    torch.testing.assert_close(loss.total, paper, rtol=1e-6, atol=0)
    difference = student.gradients(loss.total) - (reference := student.gradients(paper))
    assert difference.norm() <= 1e-5 * reference.norm()


def test_what_is_not_set_follows_the_paper_without_match_only():
    paper, ours = objective(lambda_g=0).config, objective().config
    assert (paper.supervision, paper.weighting, paper.fake_gradient) == ("mix", "paper", "through")
    assert (ours.supervision, ours.weighting, ours.fake_gradient) == ("sup", "uniform", "stop")
    assert objective(lambda_g=0, fake_gradient="stop").config.fake_gradient == "stop"
    assert Apex.Config.model_validate(paper.model_dump()) == paper


def test_match_moves_the_sample_along_the_correction():
    """d L_match / d x_g = -2 dv / (D B): Eq 27 with constant weight 1."""
    x_g, dv = torch.randn(2, 3, 2, 4, 4, dtype=torch.float64)
    x_g.requires_grad_()
    apex.match_error(x_g, dv).mean().backward()
    torch.testing.assert_close(x_g.grad, -2 * dv / (2 * 4 * 4 * 3))


def test_correction_is_the_kl_descent_direction(point):
    """By Eq 5, s_real - s_fake = (1 - t) / t dv: a positive multiple of Eq 17."""
    noise, t, x_t = point
    v_fake, v_real = torch.randn(2, *x_t.shape, dtype=x_t.dtype)
    descent = path.score(v_real, x_t, t) - path.score(v_fake, x_t, t)
    dv = apex.correction(v_fake, v_real, x_t, noise, "none")
    torch.testing.assert_close(descent, ((1 - t) / t)[:, None, None, None] * dv)


def test_clamp_and_dmd_normalisation(batch, point):
    noise, s, _ = point
    x_s = path.interpolate(batch.x, noise, s)
    v_fake, v_real = 2 * torch.randn(2, *x_s.shape, dtype=x_s.dtype)
    assert apex.correction(v_fake, v_real, batch.x, noise, "clamp").abs().max() == 1
    real, fake = path.endpoint(v_real, x_s, s), path.endpoint(v_fake, x_s, s)
    distance = (batch.x - real).abs().mean((1, 2, 3), keepdim=True)
    dmd = apex.correction(v_fake, v_real, batch.x, noise, "dmd")
    torch.testing.assert_close(dmd, (real - fake) / distance)


def test_guidance_of_the_real_velocity(toy, toy_batch):
    """v_uncond + w (v_cond - v_uncond) is what `match` compares with."""
    ours = objective(lambda_e=0, guidance=3.0, real="base")
    draws = make_draws(ours)

    def real(x_t, t, cond):
        return cond.tokens[:, :1, :1, None].expand_as(x_t)

    cond = toy_batch.cond
    uncond = Cond(torch.full_like(cond.tokens, 0.25), cond.mask)
    v_real, v_cond = ours._real_velocity(
        Nets(toy, real), type(toy_batch)(toy_batch.x, cond, uncond), toy_batch.x, draws["s"]
    )
    assert bool((v_cond == 1).all())
    assert bool((v_real == 0.25 + 3 * 0.75).all())


@pytest.mark.parametrize("rescale", [None, "patch"])
def test_v_real_is_what_a_guided_sampler_asks(student, batch, rescale):
    """With "patch" it has the length of v_cond in every patch, without it is the formula alone."""
    config = {"lambda_e": 0, "guidance": 3.0, "real": "base", "guidance_rescale": rescale}
    ours = Apex(Apex.Config.model_validate(config), DIM, patch=2)
    s, uncond = make_draws(ours)["s"], batch.uncond.select(slice(0, 1))
    same = replace(batch, uncond=uncond.expand(len(batch)))
    v_real, v_cond = ours._real_velocity(Nets(student, student), same, batch.x, s)
    sampler = CountedVelocity(SimpleNamespace(velocity=student, patch=2), 3.0, uncond, rescale)
    with torch.no_grad():
        torch.testing.assert_close(v_real, sampler(batch.x, s, batch.cond), rtol=1e-5, atol=1e-6)
        empty = student(batch.x, s, same.uncond)
    plain = empty + 3.0 * (v_cond - empty)
    if rescale is None:
        torch.testing.assert_close(v_real, plain, rtol=1e-5, atol=1e-6)
        return
    assert (v_real - plain).abs().max() > 0.01
    for rows, columns in product((slice(0, 2), slice(2, 4)), repeat=2):
        found, expected = (v[:, :, rows, columns].flatten(1).norm(dim=1) for v in (v_real, v_cond))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_a_rescaling_without_guidance_is_refused():
    with pytest.raises(ValidationError, match="guidance_rescale changes nothing at guidance 1"):
        objective(guidance_rescale="patch")


def test_the_noise_of_the_data_takes_the_place_of_a_fresh_one(student, batch):
    """coupling = "data" at t = 1: || f_x(F, z, 1) - x ||^2 with the z that x was made from (DMD's regression)."""
    config = {"times": {"kind": "point", "at": 1.0}, "lambda_p": 0, "real": "base"}
    coupled, fresh, nets = objective(**config, coupling="data"), objective(**config), Nets(student, student)
    noise = torch.randn(batch.x.shape, generator=torch.Generator().manual_seed(5), dtype=batch.x.dtype)
    loss = coupled.loss(nets, replace(batch, noise=noise), make_draws(coupled))
    one = torch.ones(len(batch), dtype=noise.dtype)
    regression = squared_error(path.endpoint(student(noise, one, batch.cond), noise, one), batch.x).mean()
    torch.testing.assert_close(loss.parts["sup"], regression)
    assert fresh.loss(nets, batch, make_draws(fresh)).parts["sup"] != loss.parts["sup"]


def test_what_the_real_velocity_makes_of_a_noise_takes_the_place_of_the_data(student, batch):
    """coupling = "real": Euler steps of the guided v_real at the times of `rollout`, written out."""
    config = {"times": {"kind": "point", "at": 1.0}, "real": "base", "guidance": 3, "rollout": (1.0, 0.6)}
    made, draws = objective(**config, coupling="real"), make_draws(objective(**config))
    one, z = torch.ones(len(batch), dtype=batch.x.dtype), draws["noise"]

    def real(x_t, t):
        cond, uncond = student(x_t, t, batch.cond), student(x_t, t, batch.uncond)
        return uncond + 3 * (cond - uncond)

    with torch.no_grad():
        x_t = z - 0.4 * real(z, one)
        image = x_t - 0.6 * real(x_t, 0.6 * one)
        regression = squared_error(path.endpoint(student(z, one, batch.cond), z, one), image).mean()
    found = made.loss(Nets(student, student), batch, draws).parts["sup"]
    torch.testing.assert_close(found.detach(), regression)
