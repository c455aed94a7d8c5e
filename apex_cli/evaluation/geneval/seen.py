"""What a detector saw in one picture, as it is kept on disk: JSON values, masks as run lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import floor
from typing import TYPE_CHECKING, Any

import numpy as np

from apex_cli.evaluation.records import Box

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Seen:
    """One object. `box` (x0, y0, x1, y1) in pixels; `mask`: run lengths, row by row over the whole picture, the
    background first, or None; `colors`: how probable each colour word is, where that was asked."""

    kind: str
    box: tuple[float, float, float, float]
    confidence: float
    mask: tuple[int, ...] | None = None
    colors: Mapping[str, float] = field(default_factory=dict)

    @property
    def color(self) -> str:
        """The most probable; "" where nobody asked."""
        return max(self.colors, key=self.colors.__getitem__) if self.colors else ""

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """The box rounded to whole pixels, as Pillow crops it; where nothing would be left, the pixel it begins in."""
        x0, y0, x1, y1 = self.box
        (left, right), (top, bottom) = _whole(x0, x1), _whole(y0, y1)
        return left, top, right, bottom

    def to_json(self) -> dict[str, Any]:
        row = {"kind": self.kind, "box": list(self.box), "confidence": self.confidence}
        return row if self.mask is None else {**row, "mask": list(self.mask)}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> Seen:
        mask = row.get("mask")
        x0, y0, x1, y1 = map(float, row["box"])
        return Seen(str(row["kind"]), (x0, y0, x1, y1), float(row["confidence"]), None if mask is None else tuple(mask))

    def colored(self, colors: Mapping[str, float]) -> Seen:
        return replace(self, colors=colors)

    def record(self) -> Box:
        """As a report shows it."""
        return Box(label=self.kind, box=self.box, score=self.confidence, color=self.color, mask=self.mask)


def _whole(first: float, last: float) -> tuple[int, int]:
    low, high = round(first), round(last)
    return (low, high) if low < high else (floor(first), floor(first) + 1)


def run_lengths(mask: Tensor) -> tuple[int, ...]:
    """Lengths of the runs of a bool mask [H, W], row by row, background and object in turn; the first may be 0."""
    flat = mask.flatten()
    edges = ((flat[1:] != flat[:-1]).nonzero()[:, 0] + 1).tolist()
    lengths = np.diff([0, *edges, len(flat)]).tolist()
    return (0, *lengths) if flat[0] else tuple(lengths)


def from_runs(runs: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """The bool mask [H, W] of `run_lengths`; `size` is (width, height)."""
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size[1], size[0])
