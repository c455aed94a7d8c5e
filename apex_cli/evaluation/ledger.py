"""Lines of JSON that survive a kill and have several writers: each shard appends to a file of its own, all read all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate, takewhile
from pathlib import Path
from typing import Any

from apex_cli.errors import UsageError


@dataclass(frozen=True)
class Shard:
    """Worker `index`, from 0, of `count`: what stands at index, index + count, ... of a list is its own."""

    index: int = 0
    count: int = 1

    @property
    def suffix(self) -> str:
        """Of file names; empty for a worker on its own."""
        return f"-{self.index + 1}-of-{self.count}" if self.count > 1 else ""


def parse_shard(text: str) -> Shard:
    """`3/16` for people, from 1/16 to 16/16."""
    number, _, total = text.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise UsageError(f"--shard: '{text}' is no worker.", "Write I/N with I from 1 to N, e.g. 3/16.")
    return Shard(int(number) - 1, int(total))


Place = tuple[Path, int]
"""Of a row: its file, and the byte it begins at."""


def read(place: Place) -> dict[str, Any]:
    """The row that begins there."""
    path, start = place
    with path.open("rb") as file:
        file.seek(start)
        return json.loads(file.readline())


class Ledger:
    """Rows in `STEM.jsonl` or, of several workers, `STEM-3-of-16.jsonl`."""

    def __init__(self, folder: Path, stem: str, shard: Shard = Shard()):
        self.folder, self.stem = folder, stem
        self.path = folder / f"{stem}{shard.suffix}.jsonl"
        self._trimmed = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows of all workers."""
        return (row for _, row in self.placed())

    def placed(self) -> Iterator[tuple[Place, dict[str, Any]]]:
        """The rows of all workers and where they lie; half a last line is none."""
        for path in sorted(self.folder.glob(f"{self.stem}*.jsonl")):
            with path.open("rb") as file:
                start = 0
                for line in takewhile(_is_whole, file):
                    yield (path, start), json.loads(line)
                    start += len(line)

    def append(self, *rows: Mapping[str, Any]) -> list[Place]:
        """Where they lie now."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._trim()
        lines = [f"{json.dumps(row)}\n".encode() for row in rows]
        with self.path.open("ab") as file:
            *starts, _ = accumulate(map(len, lines), initial=file.tell())
            file.write(b"".join(lines))
        return [(self.path, start) for start in starts]

    def _trim(self) -> None:
        """Cut off half a last line, as a kill may leave it; nobody else writes this file."""
        if not self._trimmed and self.path.is_file():
            with self.path.open("r+b") as file:
                file.truncate(sum(map(len, takewhile(_is_whole, file))))
        self._trimmed = True


def _is_whole(line: bytes) -> bool:
    return line.endswith(b"\n")
