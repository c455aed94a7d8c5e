"""Recipes: one TOML file, with `--set section.key=value` on top, becomes typed sections.

`[backbone] [objective] [data]` carry `name`, a row of the registry; their other keys are the `Config` of that class.
`[train] [sample] [eval] [teacher_sample]` are settings of the engine. Precedence: class default < recipe < `--set`.
What `apex synth-data` takes has `[synth]` instead of an objective, and other sections beside it (`SYNTH`).
All mistakes of a file come in one `UsageError`, each as `file:line: section.key: what is wrong`.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from apex_cli.drafts import TEXTS, Choice, Draft, Flag, Layout
from apex_cli.errors import UsageError
from apex_cli.mistakes import did_you_mean, nearest

if TYPE_CHECKING:
    from apex_cli.data.prompt_sources import PromptsConfig
    from apex_cli.data.synth import SynthConfig, TeacherConfig
    from apex_cli.evaluation.settings import EvalConfig
    from apex_cli.generation.settings import SampleConfig
    from apex_cli.training.settings import TrainConfig

CHOICES = ("backbone", "objective", "data")
SETTINGS = {
    "train": "apex_cli.training.settings:TrainConfig",
    "sample": "apex_cli.generation.settings:SampleConfig",
    "eval": "apex_cli.evaluation.settings:EvalConfig",
    "teacher_sample": "apex_cli.generation.settings:SampleConfig",
}
REMEDY = "`apex recipes ls` lists complete recipes, `apex recipes show NAME` prints one."
RUNS = "runs"
"""Where a run goes, by the name of its recipe."""

TRAIN = Layout("train", "objective", CHOICES, SETTINGS, optional=("teacher_sample",))
SYNTH = Layout(
    "synth-data",
    "synth",
    ("backbone", "scorer"),
    {
        "teacher": "apex_cli.data.synth:TeacherConfig",
        "prompts": "apex_cli.data.prompt_sources:PromptsConfig",
        "sample": "apex_cli.generation.settings:SampleConfig",
        "synth": "apex_cli.data.synth:SynthConfig",
    },
    optional=("backbone", "scorer", "sample"),
)


@dataclass(frozen=True)
class Sections:
    """What was read. `name` and `description` are for people and not part of the fingerprint."""

    name: str
    description: str

    def sections(self) -> dict[str, dict[str, Any]]:
        """The resolved recipe as plain values, defaults included; what is None is left out."""
        parts = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in TEXTS}
        return {name: _plain(part) for name, part in parts.items() if part is not None}

    def to_toml(self) -> str:
        """The resolved recipe; reading it gives back an equal one."""
        import tomli_w

        return tomli_w.dumps({"name": self.name, "description": self.description} | self.sections())

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical JSON of `sections()`."""
        canonical = json.dumps(self.sections(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Recipe(Sections):
    """Everything a training run depends on. `teacher_sample`: how the model it starts from is sampled, where that is a
    pipeline of others, which does not say so itself."""

    backbone: Choice
    objective: Choice
    data: Choice
    train: TrainConfig
    sample: SampleConfig
    eval: EvalConfig
    teacher_sample: SampleConfig | None = None


@dataclass(frozen=True)
class SynthRecipe(Sections):
    """What a teacher is to draw. `teacher` names a checkpoint of ours, or `backbone` a stock pipeline; without `sample`
    the checkpoint says how it is sampled."""

    teacher: TeacherConfig
    backbone: Choice | None
    prompts: PromptsConfig
    sample: SampleConfig | None
    scorer: Choice | None
    synth: SynthConfig


def recipe_folder() -> Path:
    """Where the shipped recipes are: inside an installed wheel, or at the root of an editable checkout."""
    package = Path(__file__).resolve().parent
    return package / "recipes" if (package / "recipes").is_dir() else package.parent / "recipes"


def recipe_names(command: str | None = None) -> list[str]:
    """Names of the shipped recipes, sorted: all, or those of one command, `train` or `synth-data`."""
    return sorted(p.stem for p in recipe_folder().glob("*.toml") if command in (None, command_of(p)))


def trained_by(path: str) -> str | None:
    """The shipped recipe whose run `path` is, unless told otherwise; None for any other path or hub id."""
    place = Path(path)
    return place.name if place.parent == Path(RUNS) and place.name in recipe_names("train") else None


def command_of(path: Path) -> str:
    """The command that a recipe file is for."""
    return _layout(tomllib.loads(path.read_text(encoding="utf-8"))).command


def _layout(values: dict[str, Any]) -> Layout:
    return SYNTH if SYNTH.mark in values and TRAIN.mark not in values else TRAIN


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
    return parse(_text(path), str(path), overrides)


def load_synth(path_or_name: str | None, overrides: Sequence[str | Flag] = ()) -> SynthRecipe:
    """`load` for `apex synth-data`; None is a recipe of defaults alone."""
    if path_or_name is None:
        return SynthRecipe(**_parse(f"[{SYNTH.mark}]", SYNTH.mark, overrides, SYNTH))
    path = find(path_or_name)
    return SynthRecipe(**_parse(_text(path), str(path), overrides, SYNTH))


def parse(text: str, origin: str, overrides: Sequence[str] = ()) -> Recipe:
    """`load` for text in memory; `origin` is the file name that messages show and that the default name comes from."""
    return Recipe(**_parse(text, origin, overrides, TRAIN))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file in UTF-8, so it is no recipe.", REMEDY) from error


def _parse(text: str, origin: str, overrides: Sequence[str | Flag], layout: Layout) -> dict[str, Any]:
    draft = Draft(origin, layout)
    draft.read(text)
    if layout.mark not in draft.values and (other := _layout(draft.values)) is not layout:
        told = f"{origin} is a recipe for `apex {other.command}`: it has no section [{layout.mark}]."
        raise UsageError(told, REMEDY)
    for override in overrides:
        draft.override(override)
    parts = draft.check()
    if draft.mistakes:
        raise UsageError(draft.summary(), REMEDY)
    return {"name": Path(origin).stem, "description": ""} | parts


def _plain(part: Choice | BaseModel) -> dict[str, Any]:
    if isinstance(part, Choice):
        return {"name": part.name} | _plain(part.config)
    return part.model_dump(mode="json", exclude_none=True)
