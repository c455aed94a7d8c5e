"""The shifted condition c_fake = A c + b (Eq 9), the only thing that separates the fake branch from the real one.

It acts on the raw prompt embedding, before the backbone's own normalisation and projection, on real tokens only: those
that the mask of the condition names. FLUX and SD3 attend to their padding, so their mask names every position.

    scalar     A = a I,              b constant in every dimension
    diagonal   A = diag(a)           a, b vectors, or numbers that fill a vector
    low_rank   A = a I + U V^T       U = 0 at first, so that it starts as scalar; always learned

The paper's best cell (Table 7) is a = -0.5, b = 1.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
from pydantic import PositiveInt, field_validator, model_validator
from torch import Tensor, nn

from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond

Values = float | tuple[float, ...]


class ConditionShiftConfig(Section):
    kind: Literal["scalar", "diagonal", "low_rank"] = "scalar"
    a: Values = -0.5
    b: Values = 1.0
    pooled_a: Values | None = None
    """a of the pooled embedding, which has a width of its own; None: that of the tokens."""
    pooled_b: Values | None = None
    """Likewise."""
    rank: PositiveInt = 8
    """Columns of U and V; for `low_rank` only."""
    learned: bool = False

    @field_validator("a", "b", "pooled_a", "pooled_b", mode="before")
    @classmethod
    def _listed(cls, values: Any) -> Any:
        """What an objective has filled in with its defaults is no JSON any more, and a strict list fills no tuple."""
        return tuple(values) if isinstance(values, list) else values

    @model_validator(mode="after")
    def _consistent(self) -> ConditionShiftConfig:
        if self.kind == "low_rank" and not self.learned:
            raise ValueError("low_rank starts as scalar and changes by learning: set learned = true")
        if self.kind != "diagonal" and any(isinstance(a, tuple) for a in (self.a, self.pooled_a)):
            raise ValueError("a list of values for a needs kind = 'diagonal'")
        if self.kind == "scalar" and any(isinstance(b, tuple) for b in (self.b, self.pooled_b)):
            raise ValueError("a list of values for b needs kind = 'diagonal' or 'low_rank'")
        return self

    def is_invisible(self, scale_invariant_text: bool) -> bool:
        """Whether c_fake acts as c for ever: a = 1 and b = 0, or any a > 0 where the text is normalised first."""
        apart = self.pooled_a is not None or self.pooled_b is not None
        plain = self.kind == "scalar" and not self.learned and self.b == 0 and not apart
        return plain and (self.a == 1 or (scale_invariant_text and cast(float, self.a) > 0))


def _pooled(config: ConditionShiftConfig) -> ConditionShiftConfig:
    """The settings of the pooled embedding, under the names of those of the tokens."""
    own = {"a": config.pooled_a, "b": config.pooled_b}
    for name, value in own.items():
        if value is None and isinstance(getattr(config, name), tuple):
            raise UsageError(
                f"condition_shift.{name} is a list for the tokens; this backbone has a pooled embedding too.",
                f"Set condition_shift.pooled_{name} as well.",
            )
    return config.model_copy(update={name: value for name, value in own.items() if value is not None})


def _vector(name: str, values: Values, dim: int) -> Tensor:
    """A number repeated `dim` times, or exactly `dim` given values."""
    vector = torch.as_tensor(values, dtype=torch.float32)
    if vector.ndim and len(vector) != dim:
        raise UsageError(
            f"condition_shift.{name}: {len(vector)} values, embedding has {dim}.", f"Give {dim} or one number."
        )
    return vector.expand(dim).clone()


class Affine(nn.Module):
    """A v + b on the last dimension (`dim`), computed in float32 and returned in the dtype of v."""

    a: Tensor
    b: Tensor
    u: Tensor
    v: Tensor

    def __init__(self, config: ConditionShiftConfig, dim: int, prefix: str = ""):
        """`prefix`: of the names that `a` and `b` have in a recipe."""
        super().__init__()
        a, b = torch.as_tensor(config.a), torch.as_tensor(config.b)
        if config.kind == "diagonal":
            a = _vector(f"{prefix}a", config.a, dim)
        if config.kind != "scalar":
            b = _vector(f"{prefix}b", config.b, dim)
        self._hold("a", a.float(), config.learned)
        self._hold("b", b.float(), config.learned)
        self.low_rank = config.kind == "low_rank"
        if self.low_rank:
            start = torch.randn(dim, config.rank, generator=torch.Generator().manual_seed(0)) / dim**0.5
            self._hold("u", torch.zeros(dim, config.rank), learned=True)
            self._hold("v", start, learned=True)

    def _hold(self, name: str, value: Tensor, learned: bool) -> None:
        if learned:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        full = x.to(self.a.dtype)
        y = self.a * full + self.b
        if self.low_rank:
            y = y + full @ self.v @ self.u.mT
        return y.to(x.dtype)


class ConditionShift(nn.Module):
    """c_fake = A c + b on `Cond`; masked positions stay exactly as they are. `dim`, `pooled_dim`: widths of the two
    embeddings (`pooled_dim = 0`: the backbone has no pooled vector).

    Raises `UsageError` for a list of wrong length, and for `pooled_a` or `pooled_b` where nothing is pooled.
    """

    def __init__(self, config: ConditionShiftConfig, dim: int, pooled_dim: int = 0):
        super().__init__()
        self.tokens = Affine(config, dim)
        if not pooled_dim and (config.pooled_a is not None or config.pooled_b is not None):
            told = "This backbone has no pooled embedding."
            raise UsageError(told, "Leave out condition_shift.pooled_a and pooled_b.")
        self.pooled = Affine(_pooled(config), pooled_dim, "pooled_") if pooled_dim else None

    def forward(self, cond: Cond) -> Cond:
        assert (cond.pooled is None) == (self.pooled is None), "pooled_dim must say whether the condition is pooled"
        tokens = torch.where(cond.mask[..., None], self.tokens(cond.tokens), cond.tokens)
        pooled = None if cond.pooled is None or self.pooled is None else self.pooled(cond.pooled)
        return Cond(tokens, cond.mask, pooled)
