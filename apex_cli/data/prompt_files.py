"""Prompts from a text, jsonl, csv or parquet file, or of a split of the shapes world."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from apex_cli.errors import DataError, UsageError

COLUMNS = ("prompt", "text", "caption")
"""Where a table keeps its prompts, unless it is named."""
WORLD = "shapes:"


def read(source: str, column: str | None = None, limit: int | None = None) -> tuple[list[str], int]:
    """The first `limit` prompts of `source`, and how many lines of a file were repetitions or empty, so left out.

    `source`: a file by its ending, or `shapes:SPLIT`. `column`: the field of a table. White space counts as one blank.
    Raises `DataError` for a file that is missing, cannot be read, or holds no prompt.
    """
    if source.startswith(WORLD):
        return _world(source.removeprefix(WORLD), limit), 0
    lines = list(_file(Path(source), column))
    distinct = list(dict.fromkeys(filter(None, (" ".join(line.split()) for line in lines))))
    if not distinct:
        raise DataError(f"'{source}' holds no prompt.", "Give a file with one prompt a line.")
    return distinct[:limit], len(lines) - len(distinct)


def _world(split: str, limit: int | None) -> list[str]:
    """The list of a split; with a limit the captions that training draws, where one returns with another noise."""
    from apex_cli.worlds.shapes import grammar

    if limit is None:
        return [prompt.text for prompt in grammar.prompts(split)]
    return [grammar.caption(split, 0, row).text for row in range(limit)]


def _file(path: Path, column: str | None) -> Iterable[str]:
    if path.suffix not in READERS:
        raise UsageError(f"'{path}' is no file of prompts.", f"Known: {', '.join(READERS)}, or {WORLD}SPLIT.")
    if not path.is_file():
        raise DataError(f"There is no file '{path}'.", "Give a file of prompts, or shapes:train.")
    try:
        return READERS[path.suffix](path, column)
    except (ValueError, OSError) as error:
        raise DataError(f"'{path}' could not be read: {error}", "Mend the file.") from error


def _text(path: Path, _: str | None) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def _jsonl(path: Path, column: str | None) -> list[str]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return _pick(rows, column, path)


def _csv(path: Path, column: str | None) -> list[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return _pick(list(csv.DictReader(file)), column, path)


def _parquet(path: Path, column: str | None) -> list[str]:
    from pyarrow import parquet

    names = parquet.read_schema(path).names
    return parquet.read_table(path, columns=[_column(names, column, path)])[0].to_pylist()


def _pick(rows: list[dict[str, Any]], column: str | None, path: Path) -> list[str]:
    if not rows:
        return []
    name = _column(list(rows[0]), column, path)
    return [str(row.get(name) or "") for row in rows]


def _column(names: list[str], asked: str | None, path: Path) -> str:
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
