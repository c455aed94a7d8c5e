"""What `apex train` runs."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from apex_cli.build.models import start
from apex_cli.build.readers import align, data
from apex_cli.errors import UsageError
from apex_cli.recipe import Choice, Recipe
from apex_cli.registry import resolve


def objective(choice: Choice, model: Any) -> Any:
    """The objective; one that asks for facts of the backbone (the widths of the embeddings) is told them."""
    kind = resolve("objective", choice.name)
    asked = inspect.signature(kind).parameters
    facts = ("cond_dim", "pooled_dim", "patch")
    return kind(choice.config, **{fact: getattr(model, fact) for fact in facts if fact in asked})


def job(recipe: Recipe, folder: Path) -> Any:
    """Everything `apex train` runs."""
    from apex_cli.training.grids import PointGrid, SampleGrid
    from apex_cli.training.loop import Job
    from apex_cli.training.page import write_page

    source = data(recipe)  # before the model, which may take minutes to load
    model, teacher = start(recipe.backbone.name, recipe.backbone.config)
    align(source, model)
    goal, origin = objective(recipe.objective, model), _rooted(recipe.backbone.config.model_dump())
    if goal.needs.inputs == "answers" and goal.config.answers != (asked := getattr(source, "questions", ())):
        known = f"Set objective.answers = {list(asked)}." if asked else "Choose data that has questions, e.g. shapes."
        raise UsageError(f"objective.answers does not fit the questions of '{recipe.data.name}'.", known)
    if goal.needs.noise and not hasattr(source, "noises"):
        raise UsageError(
            f"objective.coupling = 'data' asks for images whose noise is known; '{recipe.data.name}' has none.",
            'Draw a set with `apex synth-data` and train on it with [data] name = "shards".',
        )
    grid = PointGrid if recipe.data.name == "modes" else SampleGrid
    return Job(
        backbone=model,
        objective=goal,
        data=source,
        config=recipe.train,
        sample=recipe.sample,
        folder=folder,
        recipe=recipe.to_toml(),
        identity={
            "name": recipe.name,
            "data": recipe.data.name,
            "backbone": {"name": recipe.backbone.name, "config": origin},
            "base": origin.get("path") if teacher else None,
            "objective": recipe.objective.name,
            "condition_shift": recipe.sections()["objective"].get("condition_shift"),
            "recipe": recipe.fingerprint,
        },
        warnings=_warnings(goal, model),
        on_sample=grid(recipe.sample, teacher, recipe.train, folder) if goal.needs.inputs == "latents" else None,
        on_report=partial(write_page, folder),
    )


def _warnings(goal: Any, model: Any) -> tuple[str, ...]:
    shift = getattr(goal.config, "condition_shift", None)
    if shift is None or not shift.is_invisible(model.scale_invariant_text):
        return ()
    return (
        f"condition_shift a = {shift.a:g}, b = 0 is invisible to this backbone: c_fake acts as c. Set b, or a < 0.",
    )


def _rooted(config: dict[str, Any]) -> dict[str, Any]:
    """A local `path` made absolute, so that a checkpoint can be used from any folder."""
    path = config.get("path")
    return config | {"path": str(Path(path).resolve())} if path and Path(path).is_dir() else config
