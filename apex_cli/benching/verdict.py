"""Faster or slower than before: a saved benchmark beside a new one.

Two questions for each cell. Did its time over that of the stock pipeline in the same rounds grow by more than 5 %? That
holds on any machine, busy or not. Did its own time grow by more than 10 %? That is asked of the same device only. It is
a regression where the growth is beyond the limit and its 95 % interval excludes no change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_cli.benching.cells import YARDSTICK
from apex_cli.benching.statistics import Interval, quotient, ratio
from apex_cli.errors import DataError, UsageError

SCHEMA = 1
"""Version of the JSON document."""
LIMITS = {"over diffusers": 0.05, "seconds": 0.10}


@dataclass(frozen=True)
class Change:
    """One question about one cell: how many times the old value the new one is."""

    key: str
    what: str
    change: Interval

    @property
    def regressed(self) -> bool:
        return self.change.value > 1 + LIMITS[self.what] and self.change.low > 1


def save(document: Mapping[str, Any], path: Path) -> None:
    """Write a benchmark whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.partial")
    staging.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    staging.replace(path)


def read(path: Path) -> dict[str, Any]:
    """A saved benchmark; raises `DataError` for anything else."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise DataError(f"'{path}' is no saved benchmark.", "Make one with `apex bench --save FILE`.") from error
    if not isinstance(document, dict) or document.get("schema") != SCHEMA or "cells" not in document:
        raise DataError(f"'{path}' is no benchmark of schema {SCHEMA}.", "Make one with `apex bench --save FILE`.")
    return document


def compare(new: Mapping[str, Any], old: Mapping[str, Any]) -> list[Change]:
    """Changes of the cells that both have; `UsageError` for other devices, weights or clocks, or none in common."""
    for what, mine, theirs in (
        ("device", new["device"]["identity"], old["device"]["identity"]),
        ("weights", new["weights"], old["weights"]),
        ("clock", new["clock"], old["clock"]),
    ):
        if mine != theirs:
            raise UsageError(
                f"The baseline was measured with another {what}: {theirs}, not {mine}.",
                "Times of different devices, weights or clocks cannot be compared; save a baseline here with --save.",
            )
    changes = list(_changes(_by_key(new), _by_key(old)))
    if not changes:
        raise UsageError(
            "The baseline has no cell in common with this benchmark.", "Measure the same grid, or save it anew."
        )
    return changes


def _by_key(document: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {cell["key"]: cell for cell in document["cells"]}


def _changes(new: Mapping[str, Mapping[str, Any]], old: Mapping[str, Mapping[str, Any]]) -> Iterator[Change]:
    for key, cell in new.items():
        if key not in old:
            continue
        mode = cell["mode"]
        stock = key.removesuffix(mode) + YARDSTICK
        if mode != YARDSTICK and stock in new and stock in old:
            now, before = ((cells[key]["times"], cells[stock]["times"]) for cells in (new, old))
            yield Change(key, "over diffusers", quotient(now, before))
        yield Change(key, "seconds", ratio(cell["times"], old[key]["times"]))


def regressions(changes: Sequence[Change], judge: Sequence[str]) -> list[Change]:
    """Those of the questions `judge` that failed."""
    return [change for change in changes if change.regressed and change.what in judge]
