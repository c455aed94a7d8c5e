"""Pipelines on the meta device: every module from its configuration file, no weights read.

`with torch.device("meta"): Backbone(config)` comes here through `folders.load`, so each backbone can be planned for.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apex_cli.errors import SetupError

FILES = ["*.json", "*.txt", "*.model", "*.jinja"]
"""What a skeleton reads of a hub repository: configurations and tokenizers."""


def build(folder: str, pipeline_class: str, left_out: Collection[str] = (), revision: str | None = None) -> Any:
    """The pipeline object of a folder, or of a hub id whose small files are in the local cache, of its main branch or
    `revision`. Components in `left_out`, and those that the folder lists as null, are None."""
    import diffusers

    place = Path(folder) if Path(folder).is_dir() else _cached(folder, revision)
    index = json.loads((place / "model_index.json").read_text())
    rows = {name: row for name, row in index.items() if isinstance(row, list)} | dict.fromkeys(left_out, (None, None))
    parts = {name: None if row[1] is None else _component(place / name, *row) for name, row in rows.items()}
    return getattr(diffusers, pipeline_class)(**parts)


def _cached(hub_id: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    remedy = f"Fetch the small files: hf download {hub_id} --include {' '.join(map(repr, FILES))}"
    try:
        place = Path(snapshot_download(hub_id, revision=revision, local_files_only=True, allow_patterns=FILES))
    except LocalEntryNotFoundError as error:
        raise SetupError(f"The configuration of '{hub_id}' is not in the local cache.", remedy) from error
    if not (place / "model_index.json").is_file():
        raise SetupError(f"The local cache of '{hub_id}' has no model_index.json.", remedy)
    return place


def _component(folder: Path, library: str, name: str) -> Any:
    """One entry of model_index.json: a module without weights, or a tokenizer or scheduler as it is stored."""
    if not folder.is_dir():
        raise SetupError(f"'{folder.parent}' has no folder {folder.name}.", "Complete the pipeline folder.")
    kind = getattr(importlib.import_module(library), name)
    if not issubclass(kind, nn.Module):
        return kind.from_pretrained(folder)
    if library == "diffusers":
        return kind.from_config(kind.load_config(folder))
    # In float32 as `folders.load` reads it; the configuration names the format of the file.
    return kind._from_config(kind.config_class.from_pretrained(folder), dtype=torch.float32)
