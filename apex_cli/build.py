"""The composition root: the only file that knows names and classes both. Recipe or checkpoint in, objects out."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_cli.errors import CheckpointError
from apex_cli.generation import SampleConfig
from apex_cli.recipe import Choice, Recipe
from apex_cli.registry import resolve

SHIPPED_STUDENT = "assets:shapes_student"
"""What `apex sample` and `apex eval` use when no --ckpt is given."""


@dataclass(frozen=True)
class Model:
    """A backbone ready to be sampled, how its contract says it is sampled, and where it came from."""

    backbone: Any
    sample: SampleConfig
    contract: dict[str, Any]
    source: Path


def backbone(name: str, config: Any) -> Any:
    """The backbone of a recipe. A `path` that is a run or checkpoint means that model with its trained parts."""
    path = getattr(config, "path", None)
    if path and Path(path).is_dir() and not (Path(path) / "model_index.json").is_file():
        model = load_model(path).backbone
        if type(model) is not resolve("backbone", name):
            raise CheckpointError(f"'{path}' is not a {name} model.", "Choose the backbone that the run was made with.")
        return model.with_config(config)
    return resolve("backbone", name)(config)


def objective(choice: Choice, model: Any) -> Any:
    """The objective; one that owns tensors (a condition shift) is told the width of the embeddings."""
    kind = resolve("objective", choice.name)
    if "cond_dim" in inspect.signature(kind).parameters:
        return kind(choice.config, model.cond_dim)
    return kind(choice.config)


def data(choice: Choice) -> Any:
    return resolve("data", choice.name)(choice.config)


def job(recipe: Recipe, folder: Path) -> Any:
    """Everything `apex train` runs."""
    from apex_cli.training.grids import SampleGrid
    from apex_cli.training.loop import Job

    model = backbone(recipe.backbone.name, recipe.backbone.config)
    return Job(
        backbone=model,
        objective=objective(recipe.objective, model),
        data=data(recipe.data),
        config=recipe.train,
        sample=recipe.sample,
        folder=folder,
        recipe=recipe.to_toml(),
        identity={
            "name": recipe.name,
            "backbone": {"name": recipe.backbone.name, "config": recipe.backbone.config.model_dump()},
            "objective": recipe.objective.name,
            "condition_shift": recipe.sections()["objective"].get("condition_shift"),
            "recipe": recipe.fingerprint,
        },
        on_sample=SampleGrid(recipe.sample, recipe.train, folder) if recipe.objective.name != "reconstruction" else None,
    )


def load_model(path: str | Path) -> Model:
    """A model from a run, a checkpoint, a pipeline folder, or `assets:NAME` of either form."""
    from apex_cli.backbones import folders
    from apex_cli.training import checkpoint, lora
    from apex_cli.training.parts import load_components

    place = Path(folders.locate(str(path))) if str(path).startswith("assets:") else Path(path)
    folder = checkpoint.find(place)
    contract = checkpoint.read_contract(folder)
    row = contract["backbone"]
    config = resolve("backbone", row["name"]).Config(**row["config"])
    model = backbone(row["name"], config)
    weights = folder / contract["weights"]
    folders.refuse_pickles(weights)
    if contract["tuning"] == "lora":
        lora.load(model, weights)
    else:
        load_components(model, weights)
    return Model(model, SampleConfig(**contract["sample"]), contract, folder)
