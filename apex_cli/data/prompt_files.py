"""Prompts from a text, jsonl, csv or parquet file."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from apex_cli.errors import DataError, UsageError

COLUMNS = ("prompt", "text", "caption")
"""Where a table keeps its prompts, unless it is named."""


def lines(source: str, column: str | None = None) -> Iterable[str]:
    """The prompts of a file as they stand there. `column`: the field of a table.

    Raises `UsageError` for a file of another kind, `DataError` for one that is missing or cannot be read.
    """
    path = Path(source)
    if path.suffix not in READERS:
        known = f"Known: {', '.join(READERS)}, shapes:SPLIT, captions:SPLIT, posters:SEED, hub:OWNER/NAME."
        raise UsageError(f"'{path}' is no file of prompts.", known)
    if not path.is_file():
        raise DataError(f"There is no file '{path}'.", "Give a file of prompts, or shapes:train.")
    try:
        return READERS[path.suffix](path, column)
    except (ValueError, OSError) as error:
        raise DataError(f"'{path}' could not be read: {error}", "Mend the file.") from error


def _text(path: Path, _: str | None) -> list[str]:
    return path.read_text(encoding="utf-8-sig").splitlines()


def _jsonl(path: Path, column: str | None) -> list[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8-sig").split("\n") if line.strip()]
    if strange := next((row for row in rows if not isinstance(row, dict)), None):
        raise ValueError(f"{json.dumps(strange)[:40]} is no JSON object")
    return _pick(rows, column, path)


def _csv(path: Path, column: str | None) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return _pick(list(csv.DictReader(file)), column, path)


def _parquet(path: Path, column: str | None) -> list[str]:
    from pyarrow import parquet

    names = parquet.read_schema(path).names
    values = parquet.read_table(path, columns=[column_of(names, column, path)])[0].to_pylist()
    return [str(value or "") for value in values]


def _pick(rows: list[dict[str, Any]], column: str | None, path: Path) -> list[str]:
    if not rows:
        return []
    name = column_of(list(rows[0]), column, path)
    return [str(row.get(name) or "") for row in rows]


def column_of(names: list[str], asked: str | None, path: Path | str) -> str:
    """The column of a table that holds its prompts."""
    found = [name for name in ((asked,) if asked else COLUMNS) if name in names]
    if not found:
        raise DataError(
            f"'{path}' has no column {asked or ' or '.join(COLUMNS)}; it has {', '.join(names)}.", "Name one: --column."
        )
    return found[0]


READERS: dict[str, Callable[[Path, str | None], list[str]]] = {
    ".txt": _text,
    ".jsonl": _jsonl,
    ".csv": _csv,
    ".parquet": _parquet,
}
