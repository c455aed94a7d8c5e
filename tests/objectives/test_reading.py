"""Reading: the loss, and that a tiny Gemma-2 learns to tell "above" from "below" by it."""

from __future__ import annotations

import math

import pytest
import torch

from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Batch, Nets
from apex_cli.objectives.reading import Reading


def nowhere(x_t, t, cond):
    raise AssertionError("no velocity is asked for")


def reader() -> Reading:
    return Reading(Reading.Config(answers=(2, 3)), cond_dim=4)


def batch() -> Batch:
    tokens = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return Batch(torch.tensor([[0, 2], [1, 1]]), Cond(tokens, mask))


def test_who_knows_nothing_pays_the_logarithm_of_the_answers():
    loss = reader().loss(Nets(nowhere), batch(), {})
    assert loss.total.item() == pytest.approx(math.log(2) + math.log(3))


def test_only_the_last_token_of_the_caption_is_asked():
    objective, given = reader(), batch()
    torch.nn.init.normal_(objective.modules.weight, generator=torch.Generator().manual_seed(1))
    tokens = given.cond.tokens.requires_grad_(True)
    objective.loss(Nets(nowhere), given, {}).total.backward()
    asked = tokens.grad.abs().sum(-1) > 0
    assert asked.nonzero().tolist() == [[0, 4], [1, 2]]


def test_read_is_every_question_right():
    objective = Reading(Reading.Config(answers=(2, 3)), cond_dim=5)
    with torch.no_grad():
        objective.modules.weight.copy_(torch.eye(5))
    tokens = torch.tensor([[1.0, 0, 0, 0, 1], [1.0, 0, 0, 0, 1]])[:, None]
    given = Batch(torch.tensor([[0, 2], [0, 1]]), Cond(tokens, torch.ones(2, 1, dtype=torch.bool)))
    assert objective.loss(Nets(nowhere), given, {}).watch["read"].tolist() == [1, 0]
