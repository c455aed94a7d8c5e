"""The composition root: the only room that knows names and classes both. Recipe or checkpoint in, objects out.

Here: what is trained, and models. fast.py: their fast twins. evaluation.py: what `apex eval` asks.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from apex_cli.errors import CheckpointError, UsageError
from apex_cli.generation import SampleConfig
from apex_cli.recipe import Choice, Recipe, SynthRecipe
from apex_cli.registry import resolve

SHIPPED_STUDENT = "assets:shapes_student"
"""What `apex sample` and `apex eval` use when no --ckpt is given."""
SHIPPED_TEACHER = "assets:shapes_teacher"
"""What `apex synth-data` draws with when it is told nothing."""


@dataclass(frozen=True)
class Model:
    """A backbone ready to be sampled, how its contract says it is sampled, and where it came from."""

    backbone: Any
    sample: SampleConfig
    contract: dict[str, Any]
    source: Path


def start(name: str, config: Any, weights: bool = True) -> tuple[Any, SampleConfig | None]:
    """The backbone a recipe starts from. A `path` that is a run or checkpoint means that model with its trained parts;
    the way it is sampled (the teacher's) comes with it, else None. Without `weights`, see `skeleton`."""
    from apex_cli.training import lora

    path = getattr(config, "path", None)
    kind = resolve("backbone", name)
    if not path or not is_checkpoint(path):
        return kind(config), None
    model = load_model(path, weights)
    if type(model.backbone) is not kind:
        raise CheckpointError(f"'{path}' is not a {name} model.", "Choose the backbone that the run was made with.")
    if weights and model.contract["tuning"] == "lora":
        lora.fuse(model.backbone)
    # Such a run carries a flow model nobody has trained yet: no teacher.
    taught = model.contract["objective"] not in ("reading", "reconstruction")
    return model.backbone.with_config(config), model.sample if taught else None


def skeleton(name: str, config: Any) -> Any:
    """The backbone of `start` on the meta device: shapes from configuration files, no weight is read.

    The adapters of a LoRA run along the way count as fused.
    """
    import torch

    with torch.device("meta"):
        return start(name, config, weights=False)[0]


def is_checkpoint(path: str) -> bool:
    """Whether `path` is a run, checkpoint or export of ours rather than a plain pipeline folder or hub id."""
    from apex_cli.backbones import folders

    place = Path(folders.locate(path))
    return (place / "contract.json").is_file() or any(place.glob("step-*"))


def objective(choice: Choice, model: Any) -> Any:
    """The objective; one that owns tensors (a condition shift) is told the widths of the embeddings."""
    kind = resolve("objective", choice.name)
    asked = inspect.signature(kind).parameters
    return kind(
        choice.config, **{width: getattr(model, width) for width in ("cond_dim", "pooled_dim") if width in asked}
    )


def data(recipe: Recipe) -> Any:
    """The data source; one that reads pictures of any size is told the resolution of the backbone."""
    return _reader(recipe.data.name, recipe.data.config, recipe.backbone)


def _reader(name: str, config: Any, backbone: Choice) -> Any:
    kind = resolve("data", name)
    asked = inspect.signature(kind).parameters
    if "sources" in asked:
        return kind(config, [_reader(source.name, _own(source), backbone) for source in config.sources])
    if "resolution" not in asked:
        return kind(config)
    side = getattr(backbone.config, "resolution", None)
    if side is None:
        raise UsageError(f"The backbone '{backbone.name}' knows no pictures.", "Choose another [backbone].")
    return kind(config, resolution=side)


def checked(recipe: Recipe) -> Any:
    """What `apex data check` reads where a recipe names the set: a `data.checks.samples.Source`."""
    from apex_cli.data.checks.sources import ReaderSource

    source = data(recipe)
    readers = getattr(source, "sources", [source])
    if not all(hasattr(reader, "picture") for reader in readers):
        raise UsageError(f"[data] of '{recipe.name}' has samples that are no files.", "Name a folder, tars or a table.")
    return ReaderSource(recipe.data.name, readers)


def _own(source: Any) -> Any:
    """The settings of a mixture's source that its reader knows."""
    from apex_cli.data.mixture import OWN

    return resolve("data", source.name).Config(**source.model_dump(exclude=OWN))


def _align(source: Any, model: Any) -> None:
    """Tell data whose pictures have several sizes which ones suit the backbone."""
    if hasattr(source, "align") and hasattr(model, "multiple"):
        source.align(model.multiple)


def job(recipe: Recipe, folder: Path) -> Any:
    """Everything `apex train` runs."""
    from apex_cli.training.grids import PointGrid, SampleGrid
    from apex_cli.training.loop import Job
    from apex_cli.training.page import write_page

    source = data(recipe)  # before the model, which may take minutes to load
    model, teacher = start(recipe.backbone.name, recipe.backbone.config)
    _align(source, model)
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
            "data_fingerprint": getattr(source, "fingerprint", None),
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


def load_model(path: str | Path, weights: bool = True) -> Model:
    """A model from a run, a checkpoint, an exported folder, or `assets:NAME`. Without `weights`, as `skeleton` needs
    it: nothing that was trained is read or verified."""
    from apex_cli.training import checkpoint, lora
    from apex_cli.training.parts import load_components

    folder = checkpoint_of(path, verified=weights)
    contract = checkpoint.read_contract(folder)
    row, tuning = contract["backbone"], contract["tuning"]
    config, sample = dict(row["config"]), SampleConfig(**contract["sample"])
    if tuning == "comfyui":
        raise CheckpointError(f"'{folder}' is an export for ComfyUI.", "Use its run, or export it with --to merged.")
    kind = resolve("backbone", row["name"])
    if tuning == "folded":
        from apex_cli.backbones.fast import stored

        own = kind.Config(**config | {"path": str(folder)})
        twin = stored.load(row["name"], kind, own, folder / contract["weights"], contract["folded"]["times"])
        return Model(twin, sample, contract, folder)
    if tuning == "exported":
        return Model(kind(kind.Config(**config | {"path": str(folder)})), sample, contract, folder)
    if config.get("path") == checkpoint.BASE and (folder / checkpoint.BASE).is_dir():
        config["path"] = str(folder / checkpoint.BASE)
    model, _ = start(row["name"], kind.Config(**config), weights)
    if weights and tuning == "lora":
        lora.load(model, folder / contract["weights"])
    elif weights:
        load_components(model, folder / contract["weights"])
    return Model(model, sample, contract, folder)


def checkpoint_of(path: str | Path, verified: bool) -> Path:
    """The checkpoint folder behind a run, a checkpoint, an export or `assets:NAME`."""
    from apex_cli.backbones import folders
    from apex_cli.training import checkpoint

    name = str(path)
    return checkpoint.find(Path(folders.locate(name) if name.startswith("assets:") else name), verified=verified)


def ready(path: str | Path) -> Model:
    """`load_model` on the device that draws: an accelerator where there is one."""
    return placed(load_model(path))


def placed(model: Model) -> Model:
    """`model` on the device that draws, its frozen layers laid out as its settings say."""
    import torch

    from apex_cli.backbones import compact

    compact.compress(model.backbone)
    if device := torch.accelerator.current_accelerator(check_available=True):
        model.backbone.to(device)
    return model


def plan(recipe: Recipe, ranks: int = 1, mfu: float = 0.35, gpu: str | None = None) -> Any:
    """What `apex train --plan` tells: a `training.plan.Plan`; `gpu`: a name in `gpus`."""
    from apex_cli import gpus
    from apex_cli.training.plan import make

    device = None if gpu is None else gpus.find(gpu)
    source, model = data(recipe), skeleton(recipe.backbone.name, recipe.backbone.config)
    _align(source, model)
    return make(model, objective(recipe.objective, model), source, recipe.train, ranks, mfu, device)


def fit(recipe: Recipe, room: str, ranks: int = 1, mfu: float = 0.35, gpu: str | None = None) -> Any:
    """What `apex train --plan --fit ROOM` tells: a `training.fit.Fit`."""
    from apex_cli import recipe as recipes
    from apex_cli.training.fit import search

    def replan(changes: Sequence[str]) -> Any:
        changed = recipes.parse(recipe.to_toml(), recipe.name, changes)
        return plan(changed, ranks, mfu, gpu)

    adapts = bool(resolve("backbone", recipe.backbone.name).lora_targets)
    return search(recipe.train, getattr(recipe.objective.config, "real", None), adapts, room, replan)


def read_prompt(model: Model, text: str) -> tuple[str, list[str]]:
    """`text` in the words the model was trained on, and the words it does not know (embedded worlds only)."""
    if model.contract["data"] != "shapes":
        return text, []
    from apex_cli.worlds.shapes.vocabulary import normalise

    return normalise(text)


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


def benchmarks(names: Sequence[str]) -> dict[str, Sequence[str]]:
    """The prompts that training must not see: GenEval's, which are drawn again, and those of other sources."""
    from apex_cli.data.prompt_sources import first, lines
    from apex_cli.evaluation import geneval_prompts

    return {name: geneval_prompts.prompts() if name == "geneval" else first(lines(name), None)[0] for name in names}


def load_teacher(model: Model) -> Model:
    """The model that `model` was distilled from."""
    path = model.contract["base"]
    if path is None:
        raise CheckpointError(f"'{model.source}' does not say what it was distilled from.", "Leave out --compare.")
    return ready(path)


def export(run: str | Path, folder: Path, wanted: Any) -> Any:
    """What `apex ckpt export` does: `exporting.export.Wanted` in, `Proof` out."""
    from apex_cli.exporting.export import export

    return export(load_model(run), load_model, folder, wanted)
