"""The composition root: the only file that knows names and classes both. Recipe or checkpoint in, objects out."""

from __future__ import annotations

import inspect
import json
import shutil
from dataclasses import dataclass
from functools import partial
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


def start(name: str, config: Any) -> tuple[Any, SampleConfig | None]:
    """The backbone a recipe starts from. A `path` that is a run or checkpoint means that model with its trained parts;
    the way it is sampled (the teacher's) comes with it, else None."""
    path = getattr(config, "path", None)
    kind = resolve("backbone", name)
    if not path or not is_checkpoint(path):
        return kind(config), None
    model = load_model(path)
    if type(model.backbone) is not kind:
        raise CheckpointError(f"'{path}' is not a {name} model.", "Choose the backbone that the run was made with.")
    fuse(model)
    # An autoencoder run carries a flow model nobody has trained yet: no teacher.
    taught = model.contract["objective"] != "reconstruction"
    return model.backbone.with_config(config), model.sample if taught else None


def is_checkpoint(path: str) -> bool:
    """Whether `path` is a run, checkpoint or export of ours rather than a plain pipeline folder or hub id."""
    from apex_cli.backbones import folders

    place = Path(folders.locate(path))
    return (place / "contract.json").is_file() or any(place.glob("step-*"))


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
    from apex_cli.training.grids import PointGrid, SampleGrid
    from apex_cli.training.loop import Job
    from apex_cli.training.page import write_page

    model, teacher = start(recipe.backbone.name, recipe.backbone.config)
    goal = objective(recipe.objective, model)
    origin = _rooted(recipe.backbone.config.model_dump())
    grid = PointGrid if recipe.data.name == "modes" else SampleGrid
    return Job(
        backbone=model,
        objective=goal,
        data=data(recipe.data),
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
        on_sample=grid(recipe.sample, teacher, recipe.train, folder) if goal.needs.inputs == "latents" else None,
        on_report=partial(write_page, folder),
    )


def _rooted(config: dict[str, Any]) -> dict[str, Any]:
    """A local `path` made absolute, so that a checkpoint can be used from any folder."""
    path = config.get("path")
    return config | {"path": str(Path(path).resolve())} if path and Path(path).is_dir() else config


def load_model(path: str | Path) -> Model:
    """A model from a run, a checkpoint, an exported folder, or `assets:NAME`."""
    from apex_cli.backbones import folders
    from apex_cli.training import checkpoint, lora
    from apex_cli.training.parts import load_components

    name = str(path)
    folder = checkpoint.find(Path(folders.locate(name) if name.startswith("assets:") else name))
    contract = checkpoint.read_contract(folder)
    row = contract["backbone"]
    kind = resolve("backbone", row["name"])
    sample = SampleConfig(**contract["sample"])
    if contract["tuning"] == "exported":
        return Model(kind(kind.Config(**row["config"] | {"path": str(folder)})), sample, contract, folder)
    model, _ = start(row["name"], kind.Config(**row["config"]))
    weights = folder / contract["weights"]
    if contract["tuning"] == "lora":
        lora.load(model, weights)
    else:
        load_components(model, weights)
    return Model(model, sample, contract, folder)


def skeleton(name: str, config: Any) -> Any:
    """What `start` gives, on the meta device: shapes from configuration files, no weight is read.

    The adapters of a LoRA run along the way count as fused.
    """
    import torch

    from apex_cli.backbones import folders
    from apex_cli.training import checkpoint

    path = getattr(config, "path", None)
    kind = resolve("backbone", name)
    if not path or not is_checkpoint(path):
        with torch.device("meta"):
            return kind(config)
    place = Path(folders.locate(path))
    folder = place if (place / "contract.json").is_file() else max(checkpoint.steps(place), default=place)
    if not (folder / "contract.json").is_file():
        raise CheckpointError(f"'{path}' holds no finished checkpoint.", "Train it first: apex train RECIPE.")
    contract = checkpoint.read_contract(folder)
    row = contract["backbone"]
    if row["name"] != name:
        raise CheckpointError(f"'{path}' is not a {name} model.", "Choose the backbone that the run was made with.")
    if contract["tuning"] == "exported":
        with torch.device("meta"):
            return kind(config.model_copy(update={"path": str(folder)}))
    return skeleton(name, kind.Config(**row["config"])).with_config(config)


def plan(recipe: Recipe, ranks: int = 1, mfu: float = 0.35) -> Any:
    """What `apex train --plan` tells: a `training.plan.Plan`."""
    from apex_cli.training.plan import make

    model = skeleton(recipe.backbone.name, recipe.backbone.config)
    return make(model, objective(recipe.objective, model), data(recipe.data), recipe.train, ranks, mfu)


def read_prompt(model: Model, text: str) -> tuple[str, list[str]]:
    """`text` in the words the model was trained on, and the words it does not know (embedded worlds only)."""
    if model.contract["data"] != "shapes":
        return text, []
    from apex_cli.worlds.shapes.vocabulary import normalise

    return normalise(text)


def load_teacher(model: Model) -> Model:
    """The model that `model` was distilled from."""
    path = model.contract["base"]
    if path is None:
        raise CheckpointError(f"'{model.source}' does not say what it was distilled from.", "Leave out --compare.")
    return load_model(path)


def fuse(model: Model) -> None:
    """Add LoRA adapters to the weights they adapt, so that the model is like any other."""
    if model.contract["tuning"] == "lora":
        model.backbone.pipeline.fuse_lora()
        model.backbone.pipeline.unload_lora_weights()


def _forget_origin(folder: Path) -> None:
    """Remove the local path that the libraries write into every configuration file."""
    for file in (*folder.glob("*.json"), *folder.glob("*/config.json")):
        facts = json.loads(file.read_text())
        if facts.pop("_name_or_path", None):
            file.write_text(json.dumps(facts, indent=2) + "\n")


def export(model: Model, folder: Path, dtype: str) -> None:
    """Write a self-contained pipeline folder (LoRA fused) that stock diffusers loads, with its sampler contract."""
    import torch

    from apex_cli.training import checkpoint

    fuse(model)
    if dtype != "float32":  # what it is already; diffusers warns about any cast
        model.backbone.pipeline.to(getattr(torch, dtype))
    contract: dict[str, Any] = model.contract | {"tuning": "exported"}
    contract["backbone"] = {**contract["backbone"], "config": {**contract["backbone"]["config"], "path": None}}
    if not str(contract["base"]).startswith("assets:"):
        contract["base"] = None  # a folder of this machine means nothing elsewhere

    def fill(staging: Path) -> None:
        model.backbone.save(staging)
        _forget_origin(staging)
        (staging / "contract.json").write_text(json.dumps(contract, indent=1))
        shutil.copy(model.source / "recipe.toml", staging / "recipe.toml")

    checkpoint.write(folder, fill)
