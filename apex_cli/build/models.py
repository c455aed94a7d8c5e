"""Models: from a recipe's backbone, or from a run, checkpoint, export or asset, to what is sampled or trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_cli.build import bases
from apex_cli.build.origins import checkpoint_of, is_checkpoint, require
from apex_cli.errors import CheckpointError, UsageError
from apex_cli.generation import SampleConfig
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
    if path:
        bases.check_trained(path)
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
    else:
        require(config.get("path", ""), row.get("manifest"), folder)
    model, _ = start(row["name"], kind.Config(**config), weights)
    if weights and tuning == "lora":
        lora.load(model, folder / contract["weights"])
    elif weights:
        load_components(model, folder / contract["weights"])
    return Model(model, sample, contract, folder)


def initial_weights(path: str, backbone: str, tuning: str) -> Path:
    """The folder of weights behind a run, checkpoint, export or asset, for a student of `backbone` and `tuning`."""
    from apex_cli.training import checkpoint

    bases.check_trained(path)
    folder = checkpoint_of(path, verified=True)
    contract = checkpoint.read_contract(folder)
    found = contract["backbone"]["name"], contract["tuning"]
    if found == (backbone, tuning):
        return folder / contract["weights"]
    if found == (backbone, "exported") and tuning == "full":
        return folder
    told = f"train.init_from = '{path}' holds weights of another kind ({found[0]}, {found[1]})."
    raise UsageError(told, f"Name a {backbone} run with tuning = '{tuning}'; for full tuning an export does too.")


def load_teacher(model: Model) -> Model:
    """The model that `model` was distilled from."""
    contract, path = model.contract, model.contract["base"]
    if path is None:
        raise CheckpointError(f"'{model.source}' does not say what it was distilled from.", "Leave out --compare.")
    if is_checkpoint(path):
        return ready(path)
    if (sample := contract.get("teacher_sample")) is None:
        told = f"'{model.source}' does not say how '{path}', which it was distilled from, is sampled."
        raise CheckpointError(told, "Leave out --compare; [teacher_sample] in a recipe says it.")
    row = contract["backbone"]
    kind = resolve("backbone", row["name"])
    backbone = kind(kind.Config(**row["config"] | {"path": path}))
    return placed(Model(backbone, SampleConfig(**sample), {"data": contract["data"]}, Path(path)))


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


def read_prompt(model: Model, text: str) -> tuple[str, list[str]]:
    """`text` in the words the model was trained on, and the words it does not know (embedded worlds only)."""
    if model.contract["data"] != "shapes":
        return text, []
    from apex_cli.worlds.shapes.vocabulary import normalise

    return normalise(text)
