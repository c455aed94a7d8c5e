"""What holds for every objective of velocities: weights enter linearly, draws are sliced freely, any batch size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from tiny_networks import DIM, make_batch, make_draws, rows_of

from apex_cli.flow.path import interpolate, velocity_target
from apex_cli.objectives.apex import Apex
from apex_cli.objectives.base import Nets
from apex_cli.objectives.fm import FlowMatching


def apex(**config) -> Apex:
    return Apex(Apex.Config.model_validate(config), DIM)


OBJECTIVES: dict[str, Callable] = {
    "fm": lambda: FlowMatching(FlowMatching.Config(caption_dropout=0.5)),
    "apex self": lambda: apex(caption_dropout=0.5),
    "apex base": lambda: apex(real="base", guidance=3.0, supervision="mix", match_normalise="dmd"),
    "apex eq 25": lambda: apex(lambda_g=0),
}


@pytest.fixture(params=OBJECTIVES)
def objective(request):
    return OBJECTIVES[request.param]()


def test_draws_are_a_function_of_the_generator(objective):
    first, again, other = (make_draws(objective, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["noise"], other["noise"])
    assert all(len(value) == 4 for value in first.values())


@pytest.mark.parametrize("rows", [1, 3])
def test_any_batch_size(objective, student, rows):
    loss = objective.loss(Nets(student, student), make_batch(rows), make_draws(objective, rows))
    assert bool(loss.total.isfinite())
    assert loss.parts.keys() == loss.weights.keys()
    assert all(value.shape == (rows,) for value in loss.watch.values())


def test_finite_at_both_ends_of_the_path(objective, student, batch):
    for time in (0.0, 1.0):
        draws = {
            k: torch.full_like(v, time) if k.startswith(("t", "s")) else v for k, v in make_draws(objective).items()
        }
        loss = objective.loss(Nets(student, student), batch, draws)
        assert bool(loss.total.isfinite())
        assert bool(student.gradients(loss.total).isfinite().all())


def test_accumulation_equals_one_big_batch(objective, student, batch):
    draws = make_draws(objective)
    whole = student.gradients(objective.loss(Nets(student, student), batch, draws).total)
    sliced = torch.zeros_like(whole)
    for rows in (slice(0, 1), slice(1, 4)):
        part, part_draws = rows_of(batch, draws, rows)
        loss = objective.loss(Nets(student, student), part, part_draws).total
        sliced += student.gradients(loss * len(part) / len(batch))
    # float32 inside SANA's linear attention sets the tolerance.
    assert (whole - sliced).norm() <= 1e-5 * whole.norm()


def test_total_is_affine_in_each_weight(student, batch):
    draws = make_draws(apex())
    names = {"lambda_p": "fake", "lambda_e": "sup", "lambda_g": "match"}

    def loss(**weights):
        return apex(**weights).loss(Nets(student), batch, draws)

    with torch.no_grad():
        one = loss()
        assert one.total.item() == pytest.approx(sum(one.parts.values()).item())
        for weight, part in names.items():
            three = loss(**{weight: 3.0})
            assert three.total.item() == pytest.approx((one.total + 2 * one.parts[part]).item())
            assert three.parts[part].item() == pytest.approx(one.parts[part].item())


def test_a_loss_without_terms_is_an_error():
    with pytest.raises(ValidationError, match="nothing to train"):
        apex(lambda_p=0, lambda_e=0, lambda_g=0)


def test_flow_matching_is_equation_4(student, batch):
    objective = FlowMatching(FlowMatching.Config())
    draws = make_draws(objective)
    with torch.no_grad():
        loss = objective.loss(Nets(student), batch, draws)
        velocity = student(interpolate(batch.x, draws["noise"], draws["t"]), draws["t"], batch.cond)
        expected = (velocity - velocity_target(batch.x, draws["noise"])).square().mean()
    torch.testing.assert_close(loss.total, expected)


def test_dropped_captions_see_the_empty_prompt(student, batch):
    objective = FlowMatching(FlowMatching.Config(caption_dropout=1.0))
    draws = make_draws(objective)
    plain = FlowMatching(FlowMatching.Config())
    with torch.no_grad():
        dropped = objective.loss(Nets(student), batch, draws).total
        empty = plain.loss(Nets(student), replace(batch, cond=batch.uncond), draws).total
    torch.testing.assert_close(dropped, empty)
