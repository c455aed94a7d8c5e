"""A recipe while it is read: raw values, the place of every key, and all that is wrong with it, told at once.

Every mistake is one line, `file:line: section.key: what is wrong`, or `--set` or the option in place of the line.
"""

from __future__ import annotations

import difflib
import importlib
import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import ValidationError

from apex_cli import registry
from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.mistakes import (
    Key,
    descend,
    describe,
    describe_errors,
    did_you_mean,
    key_lines,
    known_keys,
    nearest,
    real_path,
)

TEXTS = ("name", "description")


@dataclass(frozen=True)
class Choice:
    """One registry row and its settings: `registry.resolve(kind, choice.name)` takes `choice.config`."""

    name: str
    config: Section


@dataclass(frozen=True)
class Layout:
    """The sections that a command's recipes have: `choices` name a row of the registry and must be there, `settings`
    (section -> class) need not; what is in `optional` is None where it is absent."""

    command: str
    mark: str
    """The section that tells such a recipe from others."""
    choices: tuple[str, ...]
    settings: dict[str, str]
    optional: tuple[str, ...] = ()


class Flag(NamedTuple):
    """A value that an option of the command line puts over a recipe, e.g. ("--seed", "synth.seed", 3)."""

    option: str
    key: str
    value: Any


@dataclass
class Draft:
    """A recipe while it is read: raw values, the place of every key, and what is wrong so far."""

    origin: str
    layout: Layout
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, tuple[float, str]] = field(default_factory=dict)
    """Key path -> (rank for sorting, text such as `file:3` or `--set`)."""
    mistakes: list[tuple[float, str]] = field(default_factory=list)
    configs: dict[str, type[Section]] = field(default_factory=dict)
    """Section -> the class it is read into."""

    def read(self, text: str) -> None:
        try:
            self.values = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            found = re.search(r"(.*) \(at line (\d+), column (\d+)\)", str(error))
            line = int(found[2]) if found else len(text.splitlines())
            what = f"column {found[3]}: {found[1]}" if found else str(error)
            raise UsageError(
                f"{self.origin}:{line}: {what}.", "Write `key = value` in TOML; text needs quotes."
            ) from error
        self.places = {key: (line, f"{self.origin}:{line}") for key, line in key_lines(text).items()}

    def override(self, given: str | Flag) -> None:
        """Put one `section.key=value` over the file, the value a TOML literal, else a string; or that of an option."""
        if isinstance(given, Flag):
            self._put(given)
            return
        dotted, equals, literal = given.partition("=")
        if not equals or not all(dotted.strip().split(".")):
            self.mistakes.append((float("inf"), f"--set: '{given}': write section.key=value"))
            return
        self._put(Flag("--set", dotted.strip(), _literal(literal.strip())))

    def _put(self, given: Flag) -> None:
        *tables, last = given.key.split(".")
        place, target = (float("inf"), given.option), self.values
        for name in tables:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                self.mistakes.append((place[0], f"{given.option}: {given.key}: '{name}' is a value, not a table"))
                return
        target[last] = given.value
        self.places[*tables, last] = place
        for n in range(len(tables)):
            self.places.setdefault((*tables[: n + 1],), place)

    def check(self) -> dict[str, Any]:
        """Validate everything; the parts of a `Recipe` if no mistake was found."""
        parts: dict[str, Any] = {name: self.values[name] for name in TEXTS if name in self.values}
        for name, value in parts.items():
            if not isinstance(value, str):
                self.report((name,), f"needs a string, got {describe(value)}")
        choices, settings = self.layout.choices, self.layout.settings
        self.configs |= {name: _import(place) for name, place in settings.items()}
        known = {*TEXTS, *choices, *settings}
        suggested = self.unknown((), self.values.keys() - known, known)
        tables = {name: self._table(name, suggested) for name in (*choices, *settings)}
        chosen = {kind: self._chosen(kind, table) for kind in choices if (table := tables[kind]) is not None}
        self.configs |= {kind: registry.resolve(kind, name).Config for kind, name in chosen.items() if name}
        for name in self.configs:
            if (table := tables[name]) is not None:
                section: Any = self._section(name, table)
                parts[name] = Choice(chosen[name] or "", section) if name in choices else section
        return dict.fromkeys(self.layout.optional) | parts

    def _table(self, name: str, suggested: set[Key]) -> dict[str, Any] | None:
        """A copy of one section; settings may be absent, choices that are not optional may not."""
        optional = name in self.layout.optional
        value = self.values.get(name, {} if name in self.layout.settings and not optional else None)
        if isinstance(value, dict):
            return dict(value)
        if name in self.values:
            self.report((name,), f"needs a table, got {describe(value)}; write [{name}]")
        elif (name,) not in suggested and not optional:
            self.report((name,), f"the section [{name}] is missing")
        return None

    def _chosen(self, kind: str, table: dict[str, Any]) -> str | None:
        """Take `name` out of a section; a mistyped `name` key is reported and read all the same."""
        known = registry.names(kind)
        key = next(iter(["name"] if "name" in table else difflib.get_close_matches("name", table, 1, 0.7)), None)
        if key is None:
            self.report((kind, "name"), f"is missing; one of {', '.join(known)}")
            return None
        if key != "name":
            self.report((kind, key), f"unknown key.{did_you_mean(['name'])}")
        name = table.pop(key)
        if name in known:
            return name
        hint = did_you_mean(nearest(name, known)) if isinstance(name, str) else ""
        self.report((kind, key), f"there is no {kind} called {json.dumps(name)}.{hint} Known: {', '.join(known)}")
        return None

    def _section(self, name: str, table: dict[str, Any]) -> Section | None:
        try:
            # Strict JSON is what a recipe means: no "3" for 3, but a list may fill a tuple and 1 a float.
            return self.configs[name].model_validate_json(json.dumps(table, default=str), strict=True)
        except ValidationError as error:
            found: dict[Key, list[Any]] = {}
            for item in error.errors(include_url=False):
                found.setdefault(real_path(item, table), []).append(item)
            self._explain(name, found)
            return None

    def _explain(self, name: str, found: dict[Key, list[Any]]) -> None:
        """Report the pydantic errors of one section; a key that is missing because it is mistyped counts once."""
        unknown = [path for path, items in found.items() if items[0]["type"] == "extra_forbidden"]
        suggested: set[Key] = set()
        for parent in dict.fromkeys(path[:-1] for path in unknown):
            keys = {str(path[-1]) for path in unknown if path[:-1] == parent}
            suggested |= self.unknown((name, *parent), keys, known_keys(self.configs[name], parent))
        for path, items in found.items():
            if path not in unknown and (name, *path) not in suggested:
                self.report((name, *path), describe_errors(items))

    def unknown(self, parent: Key, wrong: Iterable[str], known: set[str]) -> set[Key]:
        """Report keys that are not known; returns the key paths that were suggested instead of them."""
        free = known - set(descend(self.values, parent))
        suggested: set[Key] = set()
        for key in wrong:
            near = nearest(key, free) or nearest(key, known)
            suggested |= {(*parent, name) for name in near}
            homes = [section for section, config in self.configs.items() if key in config.model_fields]
            elsewhere = f" It is a key of [{homes[0]}]." if homes else f" Known: {', '.join(sorted(known))}"
            what = "key" if parent or not isinstance(self.values[key], dict) else "section"
            self.report((*parent, key), f"unknown {what}.{did_you_mean(near) or elsewhere}")
        return suggested

    def report(self, key: Key, text: str) -> None:
        near = next((key[:n] for n in range(len(key), 0, -1) if key[:n] in self.places), None)
        rank, place = self.places[near] if near else (1, f"{self.origin}:1")
        self.mistakes.append((rank, f"{place}: {'.'.join(map(str, key))}: {text}"))

    def summary(self) -> str:
        lines = [text for _, text in sorted(self.mistakes)]
        return lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} mistakes in the recipe:", *lines])


def _literal(text: str) -> Any:
    """A TOML literal, or the text itself where it is none: `0.1`, `true`, `[1, 2]`, `"a"`, `cosine`."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"]


def _import(place: str) -> Any:
    module, attribute = place.split(":")
    return getattr(importlib.import_module(module), attribute)
