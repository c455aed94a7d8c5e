"""The prompt as every network sees it: token embeddings, their mask, and a pooled vector where the backbone has one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Cond:
    """`tokens` [B, L, D], `mask` [B, L] bool (True = a real token), `pooled` [B, P] or None."""

    tokens: Tensor
    mask: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def _map(self, function: Callable[[Tensor], Tensor]) -> Cond:
        pooled = None if self.pooled is None else function(self.pooled)
        return Cond(function(self.tokens), function(self.mask), pooled)

    def select(self, index: Tensor | slice) -> Cond:
        """The rows `index` of the batch."""
        return self._map(lambda v: v[index])

    def detach(self) -> Cond:
        return self._map(torch.Tensor.detach)

    def expand(self, batch: int) -> Cond:
        """One row repeated `batch` times without a copy."""
        return self._map(lambda v: v.expand(batch, *v.shape[1:]))

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> Cond:
        """Move everything; `dtype` applies to embeddings only, the mask stays bool."""
        pooled = None if self.pooled is None else self.pooled.to(device, dtype)
        return Cond(self.tokens.to(device, dtype), self.mask.to(device), pooled)

    def padded(self, length: int) -> Cond:
        """Right-pad to `length` tokens; padding is zero and masked."""
        missing = length - self.tokens.shape[1]
        return Cond(pad(self.tokens, (0, 0, 0, missing)), pad(self.mask, (0, missing)), self.pooled)

    def where(self, rows: Tensor, other: Cond) -> Cond:
        """This condition, with the rows where `rows` [B] is True taken from `other`."""
        length = max(self.tokens.shape[1], other.tokens.shape[1])
        a, b = self.padded(length), other.padded(length)
        pooled = None if a.pooled is None else torch.where(rows[:, None], cast(Tensor, b.pooled), a.pooled)
        return Cond(
            torch.where(rows[:, None, None], b.tokens, a.tokens), torch.where(rows[:, None], b.mask, a.mask), pooled
        )

    @staticmethod
    def cat(conds: Sequence[Cond]) -> Cond:
        """Stack batches of different text lengths, padded to the longest."""
        length = max(c.tokens.shape[1] for c in conds)
        rows = [c.padded(length) for c in conds]
        pooled = None if rows[0].pooled is None else torch.cat([cast(Tensor, c.pooled) for c in rows])
        return Cond(torch.cat([c.tokens for c in rows]), torch.cat([c.mask for c in rows]), pooled)
