"""A run in the form that other software reads, proven before it is kept.

merged     a whole pipeline folder, LoRA fused
diffusers  only what was trained: `pytorch_lora_weights.safetensors`, or component folders as of `save_pretrained`
comfyui    one LoRA file for ComfyUI

The proof reads the export back through the stock loaders, draws one picture by the run's own contract and compares it
with the picture of the run itself; for ComfyUI, which is no library, it compares the weight updates in the file.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from apex_cli.backbones import folders, stock
from apex_cli.errors import CheckpointError, UsageError
from apex_cli.exporting import card, comfyui
from apex_cli.generation import Request, Sample, generate, generator, unit_range
from apex_cli.training import checkpoint, lora
from apex_cli.training.checkpoint import BASE

TOLERANCE = 1e-5
"""Largest difference of a pixel in 0..1 (or of a weight update) that fp32 may show."""
ONE_LEVEL = 1 / 255
"""The same for the call of the card, which pads prompts where the run does not: a level of an 8-bit picture."""


@dataclass(frozen=True)
class Wanted:
    form: str
    dtype: str = "float32"
    base: str | None = None
    """What an adapter or component is loaded onto, if not what the run started from."""
    repo: str | None = None
    """The hub repository that the card speaks of."""


@dataclass(frozen=True)
class Proof:
    """Largest differences from the run; `call`: of the picture of the card's own call, None where that differs."""

    difference: float
    call: float | None


def export(model: Any, load: Callable[[Path], Any], folder: Path, wanted: Wanted) -> Proof:
    """Write `folder` from `model` (a `build.Model`) and prove it; `load` reads one back. A failed proof leaves nothing.

    Raises `UsageError` where the form does not suit the run, `CheckpointError` where the proof fails.
    """
    base = _base(model, wanted)
    prompt = card.read_recipe(model)["train"]["sample_prompts"][0]
    sample, picture = draw(model, prompt)

    def fill(staging: Path) -> None:
        tuning = WRITERS[wanted.form](model, staging, wanted, base)
        forget_origin(staging)
        (staging / "contract.json").write_text(json.dumps(_contract(model.contract, tuning, base), indent=1))
        shutil.copy(model.source / "recipe.toml", staging / "recipe.toml")
        _picture_file(sample, staging / card.SAMPLE)

    checkpoint.write(folder, fill)
    try:
        proof = _prove(model, load, folder, wanted, prompt, picture)
        # Not in the manifest: a card is edited by hand.
        (folder / card.FILE).write_text(card.render(model, wanted, base, sample, proof), encoding="utf-8")
    except BaseException:
        shutil.rmtree(folder)
        raise
    return proof


def draw(model: Any, prompt: str) -> tuple[Sample, Tensor]:
    """The picture of seed 0 by the contract, also as pixels [3, H, W] in 0..1 before they are rounded."""
    sample = next(generate(model.backbone, model.sample, [Request(prompt)]))
    with torch.no_grad():
        pixels = model.backbone.decode(sample.latent[None])[0]
    return sample, unit_range(pixels)


def _base(model: Any, wanted: Wanted) -> str | None:
    """What the export is loaded onto: a hub id or the folder of --base; `base`, written beside; None: nothing."""
    tuning, form = model.contract["tuning"], wanted.form
    if tuning == "folded":
        raise UsageError(f"'{model.source}' is folded, for drawing alone.", "Export the run it came from.")
    if not hasattr(model.backbone, "pipeline"):
        raise UsageError("The models of the 2-D world are no diffusers pipelines.", "Use the run folder itself.")
    if form == "merged":
        if wanted.base:
            raise UsageError("A merged export stands alone: --base says nothing.", "Leave out --base.")
        return None
    if tuning == "exported":
        raise UsageError(f"'{model.source}' is a merged export; what was trained is not apart.", "Export the run.")
    if form == "comfyui" and tuning != "lora":
        remedy = "Use --to merged, or train with train.tuning = lora."
        raise UsageError("ComfyUI's file form is for LoRA, and this run trained whole weights.", remedy)
    origin = model.contract["backbone"]["config"]["path"]
    if (wanted.base or "").startswith("assets:"):
        raise UsageError("Stock diffusers cannot read assets:NAME.", "Leave out --base, or use --to merged.")
    local = not origin or origin == BASE or Path(folders.locate(origin)).is_dir()
    named = wanted.base or (None if local else origin)
    if named:
        folders.check(folders.locate(named), model.backbone.pipeline_class)
        if Path(named).is_dir():
            if wanted.repo:
                raise UsageError("What is pushed needs a base that others can load.", "Give --base HUB_ID.")
            named = str(Path(named).resolve())
    elif tuning == "full":
        remedy = "Use --to merged, or name that base as others know it: --base HUB_ID."
        raise UsageError("These components need a base, and the base of this run is only on this machine.", remedy)
    return named or (BASE if form == "diffusers" else None)


def _write_merged(model: Any, staging: Path, wanted: Wanted, base: str | None) -> str:
    pipeline = model.backbone.pipeline
    if model.contract["tuning"] == "lora":
        lora.fuse(model.backbone)
    pipeline.register_modules(scheduler=stock.scheduler(model.sample.sampler))
    _cast(pipeline, wanted.dtype)
    model.backbone.save(staging)
    return "exported"


def _write_diffusers(model: Any, staging: Path, wanted: Wanted, base: str | None) -> str:
    pipeline, tuning = model.backbone.pipeline, model.contract["tuning"]
    _cast(pipeline, wanted.dtype)
    if tuning == "full":
        for name in card.trained(model):
            getattr(pipeline, name).save_pretrained(staging / name)
        return tuning
    lora.save(model.backbone, staging)
    if base == BASE:
        pipeline.unload_lora_weights()
        model.backbone.save(staging / BASE)
    return tuning


def _write_comfyui(model: Any, staging: Path, wanted: Wanted, base: str | None) -> str:
    comfyui.save(model.backbone.network, staging / card.comfyui_file(model), getattr(torch, wanted.dtype))
    return "comfyui"


WRITERS = {"merged": _write_merged, "diffusers": _write_diffusers, "comfyui": _write_comfyui}
"""(model, staging, wanted, base) -> `tuning` of the export's contract."""


def _cast(pipeline: Any, dtype: str) -> None:
    if dtype != "float32":  # what it is already; diffusers warns about any cast
        pipeline.to(getattr(torch, dtype))


def forget_origin(folder: Path) -> None:
    """Remove the local path that the libraries write into every configuration file."""
    for file in (*folder.rglob("model_index.json"), *folder.rglob("config.json")):
        facts = json.loads(file.read_text())
        if facts.pop("_name_or_path", None):
            file.write_text(json.dumps(facts, indent=2) + "\n")


def _contract(contract: dict[str, Any], tuning: str, base: str | None) -> dict[str, Any]:
    row = contract["backbone"]
    teacher, origin = contract["base"], row["config"].get("path")
    elsewhere = {} if base in (None, BASE, origin) else {"revision": None}
    return contract | {
        "tuning": tuning,
        "weights": contract["weights"] if tuning == "exported" else ".",
        "backbone": {**row, "config": {**row["config"], "path": base, **elsewhere}, "manifest": None},
        # A folder of this machine means nothing elsewhere.
        "base": None if teacher is None or Path(teacher).is_absolute() else teacher,
    }


def _picture_file(sample: Sample, file: Path) -> None:
    from PIL import Image

    Image.fromarray(sample.pixels).save(file)


def _prove(
    model: Any, load: Callable[[Path], Any], folder: Path, wanted: Wanted, prompt: str, picture: Tensor
) -> Proof:
    if wanted.form == "comfyui":
        file = folder / card.comfyui_file(model)
        proof = Proof(comfyui.largest_difference(model.backbone.network, file), None)
    else:
        for module in model.backbone.pipeline.components.values():
            if isinstance(module, nn.Module):
                module.to("meta")  # its memory is wanted for the copy that is read back
        again = load(folder)
        _check_keys(again, folder)
        difference = float((draw(again, prompt)[1] - picture).abs().max())
        _cast(again.backbone.pipeline, wanted.dtype)
        proof = Proof(difference, _call_difference(again, prompt, picture))
    if wanted.dtype == "float32" and (proof.difference > TOLERANCE or (proof.call or 0) > ONE_LEVEL):
        told = f"{proof.difference:.1e} (allowed {TOLERANCE:g}); by the card's call {proof.call or 0:.1e}"
        raise CheckpointError(f"The export differs from the run by {told}. It was removed.", "Try another form (--to).")
    return proof


def _call_difference(again: Any, prompt: str, picture: Tensor) -> float | None:
    """Largest difference of the picture that the card's call of the stock pipeline makes."""
    sample, backbone = again.sample, again.backbone
    if not stock.same_picture(backbone, sample):
        return None
    pipeline = backbone.pipeline
    pipeline.register_modules(scheduler=stock.scheduler(sample.sampler))
    pipeline.set_progress_bar_config(disable=True)
    arguments = stock.call_arguments(backbone, sample)
    with torch.no_grad():
        made = pipeline(prompt=prompt, **arguments, generator=generator(0, 0), output_type="pt").images[0]
    return float((made.float() - picture).abs().max())


def _check_keys(again: Any, folder: Path) -> None:
    """Every stored tensor was read into the model, and every tensor of such a part was stored.

    A text encoder renames its keys as it loads; the picture vouches for it.
    """
    backbone = again.backbone
    if again.contract["tuning"] == "lora":
        wanted = {f"transformer.{name.replace(f'.{lora.ADAPTER}.', '.')}" for name in _adapter_names(backbone.network)}
        parts = {folder / lora.FILE: wanted}
    else:
        modules = {"transformer": backbone.network, "vae": backbone.autoencoder}
        parts = {folder / name: set(m.state_dict()) for name, m in modules.items() if (folder / name).is_dir()}
    for place, keys in parts.items():
        if difference := keys ^ _stored(place):
            raise CheckpointError(f"{len(difference)} keys of {place.name} were not read: {min(difference)}, ...")


def _adapter_names(network: nn.Module) -> list[str]:
    return [name for name in network.state_dict() if ".lora_" in name]


def _stored(place: Path) -> set[str]:
    from safetensors import safe_open

    keys: set[str] = set()
    for file in place.glob("*.safetensors") if place.is_dir() else [place]:
        with safe_open(file, framework="pt") as opened:
            keys |= set(opened.keys())
    return keys
