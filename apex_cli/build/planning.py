"""What `apex train --plan` tells, without a weight in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apex_cli.build.models import skeleton
from apex_cli.build.readers import align, data
from apex_cli.build.training import objective, suit
from apex_cli.recipe import Recipe
from apex_cli.registry import resolve


def plan(recipe: Recipe, ranks: int = 1, mfu: float = 0.35, gpu: str | None = None) -> Any:
    """What `apex train --plan` tells: a `training.plan.Plan`; `gpu`: a name in `gpus`."""
    from apex_cli import gpus
    from apex_cli.training.plan import make

    device = None if gpu is None else gpus.find(gpu)
    source, model = data(recipe), skeleton(recipe.backbone.name, recipe.backbone.config)
    align(source, model)
    goal = objective(recipe.objective, model)
    suit(goal, source, recipe.data.name)
    return make(model, goal, source, recipe.train, ranks, mfu, device)


def fit(recipe: Recipe, room: str, ranks: int = 1, mfu: float = 0.35, gpu: str | None = None) -> Any:
    """What `apex train --plan --fit ROOM` tells: a `training.fit.Fit`."""
    from apex_cli import recipe as recipes
    from apex_cli.training.fit import search

    def replan(changes: Sequence[str]) -> Any:
        changed = recipes.parse(recipe.to_toml(), recipe.name, changes)
        return plan(changed, ranks, mfu, gpu)

    adapts = bool(resolve("backbone", recipe.backbone.name).lora_targets)
    return search(recipe.train, getattr(recipe.objective.config, "real", None), adapts, room, replan)
