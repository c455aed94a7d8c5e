"""Does the memory of a process stay flat over a long run? One rule for every benchmark that asks.

A run fills caches at first, so what counts is the memory from a tenth of its items on: it is flat where it is never
more than `FLAT` times what it was when that tenth was done.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FLAT = 1.1
MOMENTS = 100
"""Of a curve that are told."""


def resident() -> int:
    """Bytes of this process in memory now, what it has freed but not given back included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@dataclass
class Memory:
    """Of a run over `total` items: `curve` holds (items done, resident bytes); asked only once it holds a moment."""

    total: int
    curve: list[tuple[int, int]] = field(default_factory=list)

    def take(self, done: int) -> None:
        self.curve.append((done, resident()))

    @property
    def counted(self) -> list[tuple[int, int]]:
        """From a tenth on; of a run that has not come so far, its last moment."""
        return [moment for moment in self.curve if moment[0] * 10 >= self.total] or self.curve[-1:]

    @property
    def early(self) -> int:
        """Bytes after a tenth."""
        return self.counted[0][1]

    @property
    def most(self) -> int:
        """Bytes at most, from a tenth on."""
        return max(held for _, held in self.counted)

    @property
    def flat(self) -> bool:
        return self.most <= FLAT * self.early

    @property
    def growth(self) -> float:
        """Bytes for each 1,000 items, from a tenth to the end."""
        (first, early), (last, late) = self.counted[0], self.counted[-1]
        return 1000 * (late - early) / (last - first) if last > first else 0.0

    def __str__(self) -> str:
        early, most, growth = (value / 2**20 for value in (self.early, self.most, self.growth))
        verdict = "flat" if self.flat else "GROWS"
        return f"{early:.0f} MiB after a tenth, {most:.0f} at most, {growth:+.2f} for each 1,000: {verdict}"

    def record(self) -> dict[str, Any]:
        """As JSON, in bytes; the curve at some `MOMENTS` moments, the last one included."""
        every = max(1, len(self.curve) // MOMENTS)
        return {
            "after_a_tenth": self.early,
            "most": self.most,
            "growth_per_1000": self.growth,
            "flat": self.flat,
            "curve": self.curve[::-every][::-1],
        }
