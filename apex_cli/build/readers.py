"""The pictures, points, pairs or prompts that a recipe's [data] names."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from apex_cli.errors import UsageError
from apex_cli.recipe import Choice, Recipe
from apex_cli.registry import resolve


def data(recipe: Recipe) -> Any:
    """The data source; one that reads pictures of any size is told the resolution of the backbone."""
    return _reader(recipe.data.name, recipe.data.config, recipe.backbone)


def _reader(name: str, config: Any, backbone: Choice) -> Any:
    kind = resolve("data", name)
    asked = inspect.signature(kind).parameters
    if "sources" in asked:
        return kind(config, [_reader(source.name, _own(source), backbone) for source in config.sources])
    if "benchmarks" in asked:
        return kind(config, benchmarks(config.held_out))
    if "resolution" not in asked:
        return kind(config)
    side = getattr(backbone.config, "resolution", None)
    if side is None:
        raise UsageError(f"The backbone '{backbone.name}' knows no pictures.", "Choose another [backbone].")
    return kind(config, resolution=side)


def _own(source: Any) -> Any:
    """The settings of a mixture's source that its reader knows."""
    from apex_cli.data.mixture import OWN

    return resolve("data", source.name).Config(**source.model_dump(exclude=OWN))


def checked(recipe: Recipe) -> Any:
    """What `apex data check` reads where a recipe names the set: a `data.checks.samples.Source`."""
    from apex_cli.data.checks.sources import ReaderSource

    source = data(recipe)
    readers = getattr(source, "sources", [source])
    if not all(hasattr(reader, "picture") for reader in readers):
        raise UsageError(f"[data] of '{recipe.name}' has samples that are no files.", "Name a folder, tars or a table.")
    return ReaderSource(recipe.data.name, readers)


def align(source: Any, model: Any) -> None:
    """Tell data whose pictures have several sizes which ones suit the backbone."""
    if hasattr(source, "align") and hasattr(model, "multiple"):
        source.align(model.multiple)


def benchmarks(names: Sequence[str]) -> dict[str, Sequence[str]]:
    """The prompts that training must not see: GenEval's, which are drawn again, and those of other sources."""
    from apex_cli.data.prompt_sources import first, lines
    from apex_cli.evaluation import geneval_prompts

    return {name: geneval_prompts.prompts() if name == "geneval" else first(lines(name), None)[0] for name in names}
