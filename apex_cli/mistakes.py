"""Plain words for what is wrong with a recipe: where a key stands, which key was meant, what a value should be."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from typing import Any, get_args

from pydantic import BaseModel

Key = tuple[str | int, ...]

NEEDS = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "path_type": "a path in quotes",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}


def key_lines(text: str) -> dict[Key, int]:
    """Line (from 1) where each key and table of a valid TOML text first stands; an inline table counts as its key."""
    lines: dict[Key, int] = {}
    table: Key = ()
    statement, start = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        start = start if statement else number
        statement += line + "\n"
        try:
            key = _first_key(tomllib.loads(statement))
        except tomllib.TOMLDecodeError:  # a value that goes on over the next lines
            continue
        is_header = statement.lstrip().startswith("[")
        full = key if is_header else (*table, *key)
        table = key if is_header else table
        for n in range(1, len(full) + 1):
            lines.setdefault(full[:n], start)
        statement = ""
    return lines


def _first_key(parsed: Any) -> Key:
    """The dotted key of one parsed statement; it stops at an inline table of more than one key."""
    key: list[str] = []
    while isinstance(parsed, dict) and len(parsed) == 1:
        (name, parsed), *_ = parsed.items()
        key.append(name)
    return tuple(key)


def nearest(wrong: str, known: Iterable[str]) -> list[str]:
    """The known names most like `wrong`, all of them if several are equally near; empty if none is near."""
    near = difflib.get_close_matches(wrong, known, n=3, cutoff=0.6)
    ratio = [difflib.SequenceMatcher(None, name, wrong).ratio() for name in near]
    return sorted(name for name, r in zip(near, ratio, strict=True) if r == max(ratio))


def did_you_mean(near: Sequence[str]) -> str:
    """` Did you mean 'a' or 'b'?`, empty without a near name."""
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def describe(value: Any) -> str:
    """A TOML value as a person would say it."""
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a table"
    return f'the string "{value}"' if isinstance(value, str) else json.dumps(value, default=str)


def describe_errors(items: Sequence[Any]) -> str:
    """What is wrong with one value; `items` are the pydantic errors of it, several for a union of types."""
    first = items[0]
    if first["type"] == "missing":
        return "is missing"
    if first["type"] == "union_tag_not_found":
        return f"{first['ctx']['discriminator']} is missing"
    if first["type"] == "union_tag_invalid":
        tag, known = first["ctx"]["tag"], first["ctx"]["expected_tags"]
        near = did_you_mean(nearest(tag, re.findall(r"'([^']*)'", known)))
        return f"{first['ctx']['discriminator']} must be one of {known}, got '{tag}'.{near}"
    needs = list(dict.fromkeys(need for item in items if (need := _need(item))))
    if not needs:
        message = re.sub(r"^(Value error|Assertion failed), ", "", first["msg"])
        ended = re.sub(r"^Input should", "must", message)
        return ended if ended == message else f"{ended}, got {describe(first['input'])}"
    value = first["input"]
    if needs == ["a list"] and not isinstance(value, dict):
        return f"needs a list, got {describe(value)}; write [{json.dumps(value, default=str)}]"
    options = [name for item in items for name in re.findall(r"'([^']*)'", item.get("ctx", {}).get("expected", ""))]
    near = nearest(value, options) if isinstance(value, str) else []
    return f"needs {' or '.join(needs)}, got {describe(value)}{'.' if near else ''}{did_you_mean(near)}"


def _need(item: Any) -> str | None:
    if item["type"] in ("literal_error", "enum"):
        return item["ctx"]["expected"]
    return NEEDS.get(item["type"])


def descend(values: Any, path: Key) -> Any:
    """The raw value at a key path that exists."""
    for key in path:
        values = values[key]
    return values


def real_path(item: Any, values: Any) -> Key:
    """Where a pydantic error points in the raw values; the names of union members in its location are left out."""
    path: list[str | int] = []
    for key in item["loc"]:
        inside = isinstance(values, dict) and key in values
        inside |= isinstance(values, list) and isinstance(key, int) and key < len(values)
        if inside:
            values = values[key]
            path.append(key)
    return (*path, item["loc"][-1]) if item["type"] == "missing" else tuple(path)


def known_keys(model: type[BaseModel], path: Key) -> set[str]:
    """Field names of the model that a table at `path` below `model` is read into."""
    models = [model]
    for key in path:
        if isinstance(key, str):  # a number is the place in a list of tables
            models = [
                inner for m in models if key in m.model_fields for inner in _models(m.model_fields[key].annotation)
            ]
    return {name for m in models for name in m.model_fields}


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models(part)]
