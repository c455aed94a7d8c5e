"""What `apex train` runs."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Any

from apex_cli.build.models import initial_weights, start
from apex_cli.build.origins import committed, is_checkpoint, pin
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


def suit(goal: Any, source: Any, name: str) -> None:
    """Raise `UsageError` where the data `name` lacks what the objective reads."""
    if goal.needs.inputs == "answers" and goal.config.answers != (asked := getattr(source, "questions", ())):
        known = f"Set objective.answers = {list(asked)}." if asked else "Choose data that has questions, e.g. shapes."
        raise UsageError(f"objective.answers does not fit the questions of '{name}'.", known)
    readers = getattr(source, "sources", [source])
    pictures = goal.needs.images and goal.needs.inputs != "answers"
    if pictures and not all(hasattr(one, "pixels") or hasattr(one, "latents") for one in readers):
        raise UsageError(
            f"The objective reads pictures, and [data] '{name}' has prompts alone.",
            "Choose data with pictures, or train from noise: objective.lambda_e = 0, lambda_g > 0 and "
            "generator_times = { kind = 'point', at = 1.0 }.",
        )
    if goal.needs.noise and not hasattr(source, "noises"):
        raise UsageError(
            f"objective.coupling = 'data' asks for images whose noise is known; '{name}' has none.",
            'Draw a set with `apex synth-data` and train on it with [data] name = "shards".',
        )


def job(recipe: Recipe, folder: Path) -> Any:
    """Everything `apex train` runs."""
    from apex_cli.training import checkpoint
    from apex_cli.training.grids import PointGrid, SampleGrid
    from apex_cli.training.loop import Job
    from apex_cli.training.page import write_page

    source = data(recipe)  # before the model, which may take minutes to load
    begun, train = checkpoint.last_contract(folder), recipe.train
    initial = None
    if train.init_from and not begun:
        initial = initial_weights(train.init_from, recipe.backbone.name, train.tuning)
    origin, manifest = pin(recipe.backbone.config, begun)
    model, taught = start(recipe.backbone.name, origin)
    origin = committed(origin)
    base, teacher = _base(origin, taught), recipe.teacher_sample or taught
    if recipe.teacher_sample and base is None:
        told = "[teacher_sample] says how the model behind backbone.path is sampled, and there is none yet."
        raise UsageError(told, "Remove the section.")
    align(source, model)
    goal = objective(recipe.objective, model)
    suit(goal, source, recipe.data.name)
    grid = PointGrid if recipe.data.name == "modes" else SampleGrid
    return Job(
        backbone=model,
        objective=goal,
        data=source,
        config=recipe.train,
        sample=recipe.sample,
        folder=folder,
        recipe=recipe.to_toml(),
        initial=initial,
        identity={
            "name": recipe.name,
            "data": recipe.data.name,
            "backbone": {"name": recipe.backbone.name, "config": origin.model_dump(), "manifest": manifest},
            "base": base,
            "teacher_sample": teacher and teacher.model_dump(),
            "objective": recipe.objective.name,
            "condition_shift": recipe.sections()["objective"].get("condition_shift"),
            "recipe": recipe.fingerprint,
        },
        warnings=_warnings(goal, model),
        on_sample=grid(recipe.sample, teacher, recipe.train, folder) if goal.needs.inputs == "latents" else None,
        on_report=partial(write_page, folder),
    )


def _base(origin: Any, taught: Any) -> str | None:
    """The model that a run starts from; None where there is none, or only encoders without a flow model."""
    path = getattr(origin, "path", None)
    return path if path and (taught or not is_checkpoint(path)) else None


def _warnings(goal: Any, model: Any) -> tuple[str, ...]:
    shift = getattr(goal.config, "condition_shift", None)
    if shift is None or not shift.is_invisible(model.scale_invariant_text):
        return ()
    return (
        f"condition_shift a = {shift.a:g}, b = 0 is invisible to this backbone: c_fake acts as c. Set b, or a < 0.",
    )
