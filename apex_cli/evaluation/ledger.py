"""Lines of JSON that survive a kill and have several writers: each shard appends to a file of its own, all read all."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
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


class Ledger:
    """Rows in `STEM.jsonl` or, of several workers, `STEM-3-of-16.jsonl`."""

    def __init__(self, folder: Path, stem: str, shard: Shard = Shard()):
        self.folder, self.stem = folder, stem
        self.path = folder / f"{stem}{shard.suffix}.jsonl"
        self._trimmed = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The rows of all workers."""
        for path in sorted(self.folder.glob(f"{self.stem}*.jsonl")):
            with path.open(encoding="utf-8") as file:
                yield from (json.loads(line) for line in file if line.endswith("\n"))

    def append(self, *rows: Mapping[str, Any]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._trim()
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    def _trim(self) -> None:
        """Cut off half a last line, as a kill may leave it; nobody else writes this file."""
        if not self._trimmed and self.path.is_file():
            content = self.path.read_bytes()
            whole = content[: content.rfind(b"\n") + 1]
            if whole != content:
                self.path.write_bytes(whole)
        self._trimmed = True
