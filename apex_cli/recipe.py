"""Recipes: one TOML file, with `--set section.key=value` on top, becomes typed sections.

`[backbone] [objective] [data]` carry `name`, a row of the registry; their other keys are the `Config` of that class.
`[train] [sample] [eval]` are settings of the engine. Precedence: class default < recipe < `--set`.
All mistakes of a file come in one `UsageError`, each as `file:line: section.key: what is wrong`.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import json
import re
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

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

if TYPE_CHECKING:
    from apex_cli.evaluation.settings import EvalConfig
    from apex_cli.generation import SampleConfig
    from apex_cli.training.settings import TrainConfig

CHOICES = ("backbone", "objective", "data")
SETTINGS = {
    "train": "apex_cli.training.settings:TrainConfig",
    "sample": "apex_cli.generation:SampleConfig",
    "eval": "apex_cli.evaluation.settings:EvalConfig",
}
TEXTS = ("name", "description")
REMEDY = "`apex recipes ls` lists complete recipes, `apex recipes show NAME` prints one."


@dataclass(frozen=True)
class Choice:
    """One registry row and its settings: `registry.resolve(kind, choice.name)` takes `choice.config`."""

    name: str
    config: Section


@dataclass(frozen=True)
class Recipe:
    """Everything a run depends on. `name` and `description` are for people and not part of the fingerprint."""

    name: str
    description: str
    backbone: Choice
    objective: Choice
    data: Choice
    train: TrainConfig
    sample: SampleConfig
    eval: EvalConfig

    def sections(self) -> dict[str, dict[str, Any]]:
        """The resolved recipe as plain values, defaults included; what is None is left out."""
        tables = {kind: {"name": getattr(self, kind).name} | _plain(getattr(self, kind).config) for kind in CHOICES}
        return tables | {name: _plain(getattr(self, name)) for name in SETTINGS}

    def to_toml(self) -> str:
        """The resolved recipe; `parse` gives back an equal `Recipe`."""
        import tomli_w

        return tomli_w.dumps({"name": self.name, "description": self.description} | self.sections())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of `sections()`."""
        canonical = json.dumps(self.sections(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def recipe_folder() -> Path:
    """Where the shipped recipes are: inside an installed wheel, or at the root of an editable checkout."""
    package = Path(__file__).resolve().parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in recipe_folder().glob("*.toml"))


def header(path: Path) -> list[str]:
    """The comment lines a recipe opens with, without `#`; the first is its one-line description."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return lines


def find(path_or_name: str | Path) -> Path:
    """A file, or the shipped recipe of that name; raises `UsageError` with the nearest name."""
    path = Path(path_or_name)
    if path.is_file():
        return path
    if path.suffix == ".toml" or len(path.parts) != 1:
        raise UsageError(f"There is no recipe file '{path}'.", REMEDY)
    if str(path) not in recipe_names():
        known = ", ".join(recipe_names()) or "none"
        near = did_you_mean(nearest(str(path), recipe_names()))
        raise UsageError(f"There is no recipe called '{path}'.{near}", f"Known: {known}.")
    return recipe_folder() / f"{path}.toml"


def load(path_or_name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a file or a shipped recipe; `overrides` are `section.key=value`. One `UsageError` tells all mistakes."""
    path = find(path_or_name)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file in UTF-8, so it is no recipe.", REMEDY) from error
    return parse(text, str(path), overrides)


def parse(text: str, origin: str, overrides: Sequence[str] = ()) -> Recipe:
    """`load` for text in memory; `origin` is the file name that messages show and that the default name comes from."""
    draft = _Draft(origin)
    draft.read(text)
    for override in overrides:
        draft.override(override)
    parts = draft.check()
    if draft.mistakes:
        raise UsageError(draft.summary(), REMEDY)
    defaults: dict[str, Any] = {"name": Path(origin).stem, "description": ""}
    return Recipe(**(defaults | parts))


@dataclass
class _Draft:
    """A recipe while it is read: raw values, the place of every key, and what is wrong so far."""

    origin: str
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

    def override(self, text: str) -> None:
        """Put one `section.key=value` over the file; the value is a TOML literal, else a string."""
        dotted, equals, literal = text.partition("=")
        *tables, last = dotted.strip().split(".")
        place = (float("inf"), "--set")
        if not equals or not all((*tables, last)):
            self.mistakes.append((place[0], f"--set: '{text}': write section.key=value"))
            return
        target = self.values
        for name in tables:
            target = target.setdefault(name, {})
            if not isinstance(target, dict):
                self.mistakes.append((place[0], f"--set: {dotted}: '{name}' is a value, not a table"))
                return
        target[last] = _literal(literal.strip())
        self.places[*tables, last] = place
        for n in range(len(tables)):
            self.places.setdefault((*tables[: n + 1],), place)

    def check(self) -> dict[str, Any]:
        """Validate everything; the parts of a `Recipe` if no mistake was found."""
        parts: dict[str, Any] = {name: self.values[name] for name in TEXTS if name in self.values}
        for name, value in parts.items():
            if not isinstance(value, str):
                self.report((name,), f"needs a string, got {describe(value)}")
        self.configs |= {name: _import(place) for name, place in SETTINGS.items()}
        known = {*TEXTS, *CHOICES, *SETTINGS}
        suggested = self.unknown((), self.values.keys() - known, known)
        tables = {name: self._table(name, suggested) for name in (*CHOICES, *SETTINGS)}
        chosen = {kind: self._chosen(kind, table) for kind in CHOICES if (table := tables[kind]) is not None}
        self.configs |= {kind: registry.resolve(kind, name).Config for kind, name in chosen.items() if name}
        for name in self.configs:
            if (table := tables[name]) is not None:
                section: Any = self._section(name, table)
                parts[name] = Choice(chosen[name] or "", section) if name in CHOICES else section
        return parts

    def _table(self, name: str, suggested: set[Key]) -> dict[str, Any] | None:
        """A copy of one section; `[train] [sample] [eval]` may be absent, the others may not."""
        value = self.values.get(name, {} if name in SETTINGS else None)
        if isinstance(value, dict):
            return dict(value)
        if name in self.values:
            self.report((name,), f"needs a table, got {describe(value)}; write [{name}]")
        elif (name,) not in suggested:
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


def _plain(section: BaseModel) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_none=True)
