"""Samples that repeat earlier ones: the same caption, the same bytes, nearly the same look.

Names and hashes lie in a temporary database on disk; 56 bytes a picture stay in memory.
"""

from __future__ import annotations

import hashlib
import sqlite3
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apex_cli.data.checks.samples import Sample
from apex_cli.data.checks.seen import CELLS, Seen
from apex_cli.data.flaws import Flaw
from apex_cli.data.pictures import Source as Picture
from apex_cli.data.places import Place

BITS = 4
"""Most bits of 63 in which the layouts of near pictures differ."""
COLOUR = 0.1
"""Largest difference of a cell's colour between near pictures, 1 for black against white."""
BANDS, BAND = 5, 13
"""A layout in pieces of 13 bits: two that differ in 4 bits agree in one of 5."""
NEIGHBOURS = 8
"""Pictures of one band that each is compared with; where more look alike, each is near one of these."""


@dataclass(frozen=True)
class Repeat:
    """A sample that repeats an earlier one; `rows`: those of both in the ledger."""

    sample: str
    flaw: Flaw
    rows: tuple[int, int]


class SampleIndex:
    """All samples of a set by caption, content and look."""

    def __init__(self, again: Callable[[int], Picture | Flaw] | None = None):
        """`again`: reads the picture of the n-th sample once more, where pictures have no place of their own."""
        self._again = again
        self._rows = sqlite3.connect("")  # on disk, and gone when it is closed
        self._rows.execute(
            "CREATE TABLE samples(id INTEGER PRIMARY KEY, name, path, start, size, content, caption, look)"
        )
        self._layouts, self._colours = array("q"), bytearray()

    def close(self) -> None:
        self._rows.close()

    def add(self, sample: Sample, seen: Seen | Flaw | None) -> None:
        place, words, content, look = sample.picture, None, None, None
        where: tuple[str | None, int, int | None] = (str(place) if isinstance(place, Path) else None, 0, None)
        if isinstance(place, Place):
            where = (str(place.path), place.offset, place.size)
        if sample.caption is not None:
            words = hashlib.sha256(" ".join(sample.caption.casefold().split()).encode()).digest()[:16]
        if isinstance(seen, Seen):
            content, look = bytes.fromhex(seen.sha256)[:16], len(self._layouts)
            self._layouts.append(seen.look.layout)
            self._colours += seen.look.colours
        values = (sample.name, *where, content, words, look)
        self._rows.execute(
            "INSERT INTO samples(name, path, start, size, content, caption, look) VALUES(?,?,?,?,?,?,?)", values
        )

    def repeats(self) -> Iterator[Repeat]:
        """All repetitions, in the order of the set for each kind."""
        for column in ("caption", "content"):
            self._rows.execute(f"CREATE INDEX by_{column} ON samples({column})")
        self._rows.execute("CREATE INDEX by_look ON samples(look)")
        yield from self._equal("caption", "caption-duplicate", "has the caption of {}")
        yield from self._equal("content", "picture-duplicate", "has the bytes of {}")
        yield from self._near()

    def _equal(self, column: str, reason: str, told: str) -> Iterator[Repeat]:
        pairs = self._rows.execute(
            f"SELECT b.id, first FROM samples b JOIN (SELECT {column} AS value, MIN(id) AS first FROM samples "
            f"WHERE {column} IS NOT NULL GROUP BY value HAVING COUNT(*) > 1) ON b.{column} = value "
            "WHERE b.id > first ORDER BY b.id"
        )
        for later, first in pairs:
            yield self._repeat(later, first, reason, told)

    def _near(self) -> Iterator[Repeat]:
        layouts = np.frombuffer(self._layouts, np.int64)
        colours = np.frombuffer(self._colours, np.uint8).reshape(len(layouts), 3 * CELLS**2)
        for later, (bits, colour, first) in sorted(near(layouts, colours).items()):
            ids = self._rows.execute(
                "SELECT b.id, a.id FROM samples b, samples a "
                "WHERE b.look = ? AND a.look = ? AND b.content != a.content",
                (later, first),
            ).fetchone()
            if ids:
                told = f"looks like {{}} ({bits} of 63 bits, colours within {colour:.0%})"
                yield self._repeat(ids[0], ids[1], "picture-near", told)

    def _repeat(self, later: int, first: int, reason: str, told: str) -> Repeat:
        own, other = (self._facts(row)[0] for row in (later, first))
        return Repeat(own, Flaw(reason, told.format(other)), (later, first))

    def picture(self, row: int) -> Picture | Flaw | None:
        """Where the picture of a sample is; None where it has none that could be read."""
        _, path, start, size, content = self._facts(row)
        if path:
            return Path(path) if size is None else Place(Path(path), start, size)
        return self._again(row - 1) if self._again and content else None

    def _facts(self, row: int) -> tuple[Any, ...]:
        asked = "SELECT name, path, start, size, content FROM samples WHERE id = ?"
        return self._rows.execute(asked, (row,)).fetchone()


def near(layouts: np.ndarray, colours: np.ndarray) -> dict[int, tuple[int, float, int]]:
    """Row -> (bits, colour, earlier row) of the nearest earlier picture; only rows that are near one.

    `layouts` int64 [N], `colours` uint8 [N, 48].
    """
    found: dict[int, tuple[int, float, int]] = {}
    for band in range(BANDS):
        keys = (layouts >> (BAND * band)) & (2**BAND - 1)
        order = np.lexsort((np.arange(len(layouts)), layouts, keys))
        for step in range(1, NEIGHBOURS + 1):
            a, b = order[:-step], order[step:]
            bits = np.bitwise_count(layouts[a] ^ layouts[b])
            close = (keys[a] == keys[b]) & (bits <= BITS)
            first, later = np.minimum(a, b)[close], np.maximum(a, b)[close]
            apart = np.abs(colours[first].astype(np.int16) - colours[later]).max(1, initial=0) / 255
            for one, other, n, c in zip(first, later, bits[close], apart, strict=True):
                if c <= COLOUR:
                    candidate = (int(n), float(c), int(one))
                    found[int(other)] = min(found.get(int(other), candidate), candidate)
    return found
