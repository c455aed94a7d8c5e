"""Where a pipeline folder comes from: a path, `assets:NAME` inside the package, or a hub id. Safetensors only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from apex_cli.errors import CheckpointError, SetupError

ASSETS = Path(__file__).parents[1] / "assets"


def locate(path: str) -> str:
    """The folder (or hub id) that `path` names; a local path that is not there raises `SetupError`."""
    if path.startswith("assets:"):
        folder = ASSETS / path.removeprefix("assets:")
        shipped = ", ".join(sorted(p.name for p in ASSETS.iterdir() if p.is_dir()))
        if not folder.is_dir():
            raise SetupError(f"No shipped model is called '{path}'.", f"Shipped: {shipped}.")
        return str(folder)
    if Path(path).is_dir():
        return path
    if path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path.split("/")[0]).is_dir():
        return path
    raise SetupError(f"The model folder '{path}' does not exist.", "Give a diffusers pipeline folder or a hub id.")


def named(folder: Path) -> str:
    """What people call a model's folder: `assets:NAME` if it ships with apex, else its path."""
    return f"assets:{folder.name}" if folder.parent == ASSETS else str(folder)


def commit(hub_id: str, revision: str | None = None) -> str | None:
    """The commit of a hub repository that `revision` (the main branch without one) means in the local cache; None if
    the repository is not there."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(hub_id, "model_index.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def check(folder: str, pipeline_class: str) -> None:
    """Raise unless `folder` holds `pipeline_class` in safetensors files; a hub id is left to the hub client."""
    if not Path(folder).is_dir():
        return
    index = Path(folder) / "model_index.json"
    if not index.is_file():
        raise SetupError(f"'{folder}' has no model_index.json.", "Point to the top folder of a diffusers pipeline.")
    found = json.loads(index.read_text())["_class_name"]
    if found != pipeline_class:
        raise SetupError(f"'{folder}' is a {found}, not a {pipeline_class}.", "Choose the matching [backbone] name.")
    refuse_pickles(Path(folder))


def lacks(path: str, component: str) -> bool:
    """Whether the index of a folder has null for `component`, or does not name it; of a hub id nothing is known."""
    index = Path(locate(path)) / "model_index.json"
    return index.is_file() and json.loads(index.read_text()).get(component, [None, None])[1] is None


def refuse_pickles(folder: Path) -> None:
    """A pickle can run any code when it is opened; only safetensors are read."""
    for file in sorted(folder.rglob("*")):
        if file.suffix in {".bin", ".pt", ".pth", ".ckpt", ".pkl"}:
            raise CheckpointError(f"'{file}' is a pickle and will not be opened.", "Convert it to safetensors.")


def silence() -> None:
    """Switch off the progress bars of the libraries for every file they read or write, a warning about an empty list of
    modules, and one about a hub that is not asked."""
    import logging

    import diffusers
    import transformers

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    for name in ("diffusers.models.modeling_utils", "diffusers.pipelines.pipeline_utils"):
        logging.getLogger(name).setLevel(logging.ERROR)


def cast(pipeline: Any, dtype: str) -> Any:
    """The modules of a pipeline in `dtype`, but for the autoencoder."""
    for name, module in pipeline.components.items():
        if name != "vae" and hasattr(module, "parameters"):
            module.to(torch_dtype(dtype))
    return pipeline


def torch_dtype(name: str) -> Any:
    """What weights are loaded in; compact.py packs some of them further."""
    import torch

    return torch.float32 if name == "fp32" else torch.bfloat16


def load(path: str, pipeline_class: str, dtype: str = "fp32", revision: str | None = None, **parts: Any):
    """The pipeline object of a folder or hub id; under `torch.device("meta")` without its weights. `revision`: of the
    hub repository. `parts`: components that take the place of its own; None leaves one out."""
    import diffusers
    import torch
    from safetensors import SafetensorError

    from apex_cli.backbones import skeletons

    folder = locate(path)
    check(folder, pipeline_class)
    if torch.get_default_device().type == "meta":
        left_out = [name for name in parts if parts[name] is None]
        return cast(skeletons.build(folder, pipeline_class, left_out, revision), dtype)
    try:
        formats = {"vae": torch.float32, "default": torch_dtype(dtype)}
        kind = getattr(diffusers, pipeline_class)
        return kind.from_pretrained(folder, use_safetensors=True, dtype=formats, revision=revision, **parts)
    except (OSError, SafetensorError) as error:
        reason = f"'{path}' could not be read: {str(error).splitlines()[0]}"
        if Path(folder).is_dir():
            raise CheckpointError(reason, "The folder is incomplete or damaged: copy it again.") from error
        remedy = "Check the folder, or the network and HF_HOME for a hub id (HF_HUB_OFFLINE=1 forbids downloads)."
        raise SetupError(reason, remedy) from error
