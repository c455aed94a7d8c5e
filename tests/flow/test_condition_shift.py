"""c_fake = A c + b (Eq 9): its three forms, what it leaves alone, and that it is saved."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond
from apex_cli.flow.condition_shift import ConditionShift, ConditionShiftConfig

DIM, POOLED = 6, 4


def shift(pooled_dim: int = 0, **config) -> ConditionShift:
    return ConditionShift(ConditionShiftConfig(**config), DIM, pooled_dim)


@pytest.fixture
def cond():
    gen = torch.Generator().manual_seed(0)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    return Cond(torch.randn(2, 3, DIM, generator=gen), mask)


def test_scalar_shifts_real_tokens_and_leaves_padding_bit_identical(cond):
    fake = shift()(cond)
    assert torch.equal(fake.tokens[cond.mask], -0.5 * cond.tokens[cond.mask] + 1)
    assert torch.equal(fake.tokens[~cond.mask], cond.tokens[~cond.mask])
    assert torch.equal(fake.mask, cond.mask)
    assert fake.pooled is None


def test_pooled_is_shifted_too(cond):
    pooled = torch.randn(2, POOLED)
    fake = shift(POOLED, a=-1.0, b=0.5)(Cond(cond.tokens, cond.mask, pooled))
    assert torch.equal(fake.pooled, -pooled + 0.5)


def test_lists_for_a_backbone_that_pools(cond):
    """Its two embeddings have widths of their own, so one list cannot be for both."""
    lists = {"a": tuple(map(float, range(DIM))), "b": 0.0, "pooled_a": tuple(map(float, range(POOLED)))}
    pooled = torch.randn(2, POOLED)
    fake = shift(POOLED, kind="diagonal", **lists, pooled_b=0.5)(Cond(cond.tokens, cond.mask, pooled))
    assert torch.equal(fake.pooled, pooled * torch.arange(POOLED) + 0.5)
    assert torch.equal(fake.tokens[cond.mask], cond.tokens[cond.mask] * torch.arange(DIM))
    with pytest.raises(UsageError, match="list for the tokens") as told:
        shift(POOLED, kind="diagonal", a=lists["a"])
    assert "pooled_a" in told.value.remedy
    with pytest.raises(UsageError, match="no pooled embedding"):
        shift(kind="diagonal", pooled_b=0.5)


def test_diagonal_acts_by_dimension(cond):
    a = tuple(float(i) for i in range(DIM))
    fake = shift(kind="diagonal", a=a, b=0.0)(cond)
    assert torch.equal(fake.tokens[cond.mask], cond.tokens[cond.mask] * torch.tensor(a))


@pytest.mark.parametrize("kind", ["diagonal", "low_rank"])
def test_learned_forms_start_as_scalar(cond, kind):
    torch.testing.assert_close(shift(kind=kind, learned=True)(cond).tokens, shift()(cond).tokens)


def test_low_rank_is_a_plus_u_v(cond):
    module = shift(kind="low_rank", rank=2, learned=True)
    torch.nn.init.normal_(module.tokens.u)
    matrix = -0.5 * torch.eye(DIM) + module.tokens.u @ module.tokens.v.T
    torch.testing.assert_close(module(cond).tokens[cond.mask], cond.tokens[cond.mask] @ matrix.T + 1)


def test_low_rank_learns_from_the_first_step(cond):
    module = shift(kind="low_rank", learned=True)
    module(cond).tokens.square().sum().backward()
    assert module.tokens.u.grad.norm() > 0


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", ["scalar", "diagonal"])
def test_saved_with_the_run(cond, kind, learned):
    stored = shift(kind=kind, a=-0.7, b=0.3, learned=learned)
    loaded = shift(kind=kind, learned=learned)
    loaded.load_state_dict(stored.state_dict())
    assert torch.equal(loaded(cond).tokens, stored(cond).tokens)
    assert any(True for _ in stored.parameters()) == learned


def test_keeps_the_dtype_of_the_embedding(cond):
    fake = shift()(cond.to("cpu", torch.bfloat16))
    assert fake.tokens.dtype == torch.bfloat16


def test_inconsistent_settings_are_errors():
    with pytest.raises(ValidationError, match="learned = true"):
        shift(kind="low_rank")
    with pytest.raises(ValidationError, match="kind = 'diagonal'"):
        shift(a=(1.0, 2.0))
    with pytest.raises(UsageError, match="2 values"):
        shift(kind="diagonal", a=(1.0, 2.0))


@pytest.mark.parametrize(
    ("shift", "on_sana", "on_qwen"),
    [
        ({"a": -0.5, "b": 1.0}, False, False),
        ({"a": -1.0, "b": 0.0}, False, False),
        ({"a": 0.5, "b": 0.0}, False, True),
        ({"a": 1.0, "b": 0.0}, True, True),
        ({"a": 1.0, "b": 0.0, "learned": True}, False, False),
        ({"a": 1.0, "b": 0.0, "pooled_b": 1.0}, False, False),
    ],
)
def test_a_shift_that_changes_nothing_is_known(shift, on_sana, on_qwen):
    config = ConditionShiftConfig(**shift)
    assert (config.is_invisible(False), config.is_invisible(True)) == (on_sana, on_qwen)
