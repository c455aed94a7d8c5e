"""What `apex synth-data` makes: who draws, what is asked, and what must not be."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apex_cli.build.models import SHIPPED_TEACHER, Model, placed, ready, start
from apex_cli.build.origins import is_checkpoint
from apex_cli.errors import UsageError
from apex_cli.generation import SampleConfig
from apex_cli.recipe import SynthRecipe
from apex_cli.registry import resolve


def painter(recipe: SynthRecipe) -> Model:
    """Who draws a training set: a checkpoint of ours, or a stock pipeline, which has to be told how it is sampled."""
    choice = recipe.backbone
    if choice is None:
        return ready(recipe.teacher.ckpt or SHIPPED_TEACHER)
    path = getattr(choice.config, "path", None)
    if recipe.teacher.ckpt:
        raise UsageError("Both teacher.ckpt and [backbone] name a teacher.", "Keep one of them.")
    if path is None or is_checkpoint(path):
        raise UsageError("[backbone] names no stock pipeline.", "Set backbone.path, or teacher.ckpt for a run of ours.")
    if recipe.sample is None:
        raise UsageError("A stock pipeline does not say how it is sampled.", "Add the section [sample].")
    return placed(Model(start(choice.name, choice.config)[0], recipe.sample, {"data": None}, Path(path)))


def order(recipe: SynthRecipe, model: Model, sample: SampleConfig, prompts: Sequence[str]) -> Any:
    """What `apex synth-data` makes: a `data.synth.Order`."""
    from apex_cli.data.synth import Order
    from apex_cli.evaluation.painters import version_of

    choice = recipe.scorer
    scorer = choice and resolve("scorer", choice.name)(choice.config)
    teacher = {"name": model.source.name, "weights": version_of(model.source)}
    return Order(model.backbone, sample, recipe.synth, prompts, teacher, scorer, recipe.sections())
