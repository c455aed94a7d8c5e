"""The model card of an export: what it is, how stock diffusers draws with it, its origin, how it was checked."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_cli import __version__
from apex_cli.backbones import stock
from apex_cli.exporting import comfyui
from apex_cli.generation import Sample, generator
from apex_cli.generation.settings import FEW_STEP_SIGMAS
from apex_cli.training import checkpoint, lora
from apex_cli.training.checkpoint import BASE

if TYPE_CHECKING:
    from apex_cli.exporting.export import Proof, Wanted

FILE, SAMPLE, TEMPLATE = "README.md", "sample.png", "card.md.j2"


def read_recipe(model: Any) -> dict[str, Any]:
    """The resolved recipe of the run."""
    return tomllib.loads((model.source / "recipe.toml").read_text(encoding="utf-8"))


def comfyui_file(model: Any) -> str:
    return f"{model.contract['name']}.safetensors"


def trained(model: Any) -> list[str]:
    """Names of the pipeline components that a full run saved."""
    return sorted(path.name for path in (model.source / model.contract["weights"]).iterdir() if path.is_dir())


def render(model: Any, wanted: Wanted, base: str | None, sample: Sample, proof: Proof) -> str:
    """The text of README.md; `base` as in the export's contract."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    jinja = Environment(loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined)
    jinja.trim_blocks = jinja.lstrip_blocks = jinja.keep_trailing_newline = True
    jinja.policies["json.dumps_kwargs"] = {"ensure_ascii": False}
    recipe = read_recipe(model)
    return jinja.get_template(TEMPLATE).render(
        _sampling(model),
        **_code(model, wanted, base),
        name=wanted.repo or model.contract["name"],
        description=recipe.get("description") or f"A text-to-image model of {model.sample.nfe} network evaluations.",
        prompt=sample.request.prompt,
        file=comfyui_file(model),
        read=model.backbone.pipeline_class in comfyui.READ_FOR,
        hub_base=base if base and base != BASE and not Path(base).is_dir() else None,
        origin=_origin(model.contract, recipe),
        version=__version__,
        difference=f"{proof.difference:.1e}",
        call=None if proof.call is None else f"{proof.call:.1e}",
    )


def _sampling(model: Any) -> dict[str, Any]:
    config, grid = model.sample, model.sample.grid()
    return {
        "sampler": config.sampler,
        "nfe": config.nfe,
        "steps": len(grid) - 1,
        "sigmas": [f"{sigma:g}" for sigma in grid],
        "guidance": f"{config.guidance:g}",
        "resolution": model.backbone.config.resolution,
        "few": {n: s for n, s in FEW_STEP_SIGMAS.items() if n != config.nfe} if config.sampler == "renoise" else {},
    }


def _code(model: Any, wanted: Wanted, base: str | None) -> dict[str, Any]:
    """What the code of the card names; it runs in the export's folder, or fetches it from the hub."""
    backbone, config = model.backbone, model.sample
    apart = wanted.form == "diffusers"
    adapters = model.contract["tuning"] == "lora" and wanted.form != "merged"
    imports = {"diffusers": {backbone.pipeline_class}}
    parts = {}
    if apart:
        imports["diffusers"].add("FlowMatchEulerDiscreteScheduler")
    if wanted.repo:
        imports["huggingface_hub"] = {"snapshot_download"}
    if apart and not adapters:
        kinds = {name: type(getattr(backbone.pipeline, name)) for name in trained(model)}
        parts = {name: kind.__name__ for name, kind in kinds.items()}
        for kind in kinds.values():
            imports.setdefault(kind.__module__.split(".")[0], set()).add(kind.__name__)
    return {
        "form": wanted.form,
        "dtype": wanted.dtype,
        "repo": wanted.repo,
        "pipeline_class": backbone.pipeline_class,
        "imports": imports,
        "place": (f'f"{{folder}}/{BASE}"' if base == BASE else f'"{base}"') if apart else "folder",
        "parts": parts,
        "left_out": backbone.left_out(backbone.config),
        "adapters": adapters,
        "lora_file": lora.FILE,
        "scheduler": stock.scheduler_arguments(config.sampler),
        "arguments": stock.call_arguments(backbone, config),
        "same": stock.same_picture(backbone, config),
        "seed": generator(0, 0).initial_seed(),
    }


def _called(teacher: Path) -> str:
    """A name that means something elsewhere: of a checkpoint also the run's, of others the last of a path."""
    if not teacher.is_absolute():
        return str(teacher)
    return f"{teacher.parent.name}, {teacher.name}" if checkpoint.step_of(teacher) is not None else teacher.name


def _origin(contract: dict[str, Any], recipe: dict[str, Any]) -> dict[str, Any]:
    shift, data, teacher = contract["condition_shift"], contract.get("data_fingerprint"), contract["base"]
    facts = {
        "recipe": f"{contract['name']}, SHA-256 {contract['recipe']}",
        "objective": contract["objective"],
        "condition shift": shift and ", ".join(f"{key} {value}" for key, value in shift.items()),
        "data": f"{contract['data']}, SHA-256 {data}" if data else contract["data"],
        "distilled from": teacher and _called(Path(teacher)),
        "tuning": recipe["train"]["tuning"],
        "step": contract["step"],
        "weights": "average of the run" if contract["weights"] == "ema" else "as trained last",
    }
    return {label: value for label, value in facts.items() if value is not None}
