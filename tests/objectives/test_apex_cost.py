"""What a step asks of the networks: rows of every forward, and that a term of weight 0 asks nothing."""

from __future__ import annotations

import pytest
from tiny_networks import DIM, SHAPE, Student, make_draws

from apex_cli.objectives.apex import Apex
from apex_cli.objectives.base import Needs, Nets

B = SHAPE[0]
GRAD, NO_GRAD = True, False


@pytest.mark.parametrize(
    ("config", "student_calls", "real_rows"),
    [
        ({}, [(2 * B, GRAD), (B, GRAD), (B, NO_GRAD)], []),
        ({"lambda_e": 0}, [(B, GRAD), (B, GRAD), (B, NO_GRAD)], []),
        ({"lambda_p": 0}, [(2 * B, GRAD), (B, NO_GRAD), (B, NO_GRAD)], []),
        ({"lambda_p": 0, "lambda_e": 0}, [(B, GRAD), (B, NO_GRAD), (B, NO_GRAD)], []),
        ({"supervision": "mix"}, [(2 * B, GRAD), (B, GRAD), (B, NO_GRAD), (B, NO_GRAD)], []),
        ({"supervision": "mix", "mix": 0}, [(2 * B, GRAD), (B, GRAD), (B, NO_GRAD)], []),
        ({"guidance": 4}, [(2 * B, GRAD), (B, GRAD), (2 * B, NO_GRAD)], []),
        ({"real": "base"}, [(2 * B, GRAD), (B, GRAD)], [B]),
        ({"real": "ema", "guidance": 4, "lambda_e": 0}, [(B, GRAD), (B, GRAD)], [2 * B]),
        ({"real": "base", "coupling": "real", "rollout": (1, 0.5)}, [(2 * B, GRAD), (B, GRAD)], [B, B, B]),
        ({"lambda_g": 0}, [(B, GRAD), (B, GRAD), (B, NO_GRAD)], []),
        ({"lambda_g": 0, "real": "base", "guidance": 4}, [(B, GRAD), (B, GRAD), (B, NO_GRAD)], []),
        ({"lambda_g": 0, "mix": 0}, [(B, GRAD), (B, GRAD)], []),
        ({"lambda_g": 0, "lambda_p": 0}, [(B, GRAD), (B, NO_GRAD)], []),
        ({"lambda_g": 0, "lambda_e": 0}, [(B, GRAD), (B, GRAD)], []),
    ],
)
def test_forwards_of_a_step(student, batch, config, student_calls, real_rows):
    objective, real = Apex(Apex.Config.model_validate(config), DIM), Student(student.network)
    objective.loss(Nets(student, real), batch, make_draws(objective))
    assert student.calls == student_calls
    assert real.calls == [(rows, NO_GRAD) for rows in real_rows]


@pytest.mark.parametrize(
    ("config", "needs"),
    [
        ({}, Needs(real="self")),
        ({"real": "base", "guidance": 4}, Needs(real="base", uncond=True)),
        ({"real": "base", "guidance": 4, "lambda_g": 0}, Needs()),
        ({"caption_dropout": 0.1, "lambda_g": 0}, Needs(uncond=True)),
        ({"lambda_e": 0}, Needs(real="self", images=False)),
        ({"lambda_e": 0, "generator_times": {"kind": "uniform"}}, Needs(real="self")),
        ({"lambda_e": 0, "lambda_g": 0}, Needs()),
        ({"coupling": "data"}, Needs(real="self", noise=True)),
        ({"coupling": "data", "lambda_e": 0}, Needs(real="self", images=False)),
        (
            {"coupling": "real", "real": "base", "lambda_g": 0, "guidance": 2},
            Needs(real="base", uncond=True, images=False),
        ),
    ],
)
def test_needs_name_only_what_is_used(config, needs):
    assert Apex(Apex.Config.model_validate(config), DIM).needs == needs
