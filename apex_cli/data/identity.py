"""What an encoder is, as JSON: everything that can change a bit of what it answers, and nothing that cannot."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from apex_cli.data.store import digest

ELSEWHERE = {"path", "revision", "tiny", "resolution", "t5", "dtype", "offload", "embedded_guidance"}
"""Settings of a backbone that prompts do not depend on, or only through the weights and their formats."""
VOLATILE = {
    *("architectures", "transformers_version", "dtype", "torch_dtype"),  # of configurations
    *("padding", "truncation", "padding_side", "truncation_side", "is_local", "local_files_only", "name_or_path"),
}
"""Keys that say where something came from, or that every call of a tokenizer sets anew."""


def module(part: nn.Module) -> dict[str, Any]:
    """Class, configuration and weights; of a `ModuleDict` those of every module."""
    if isinstance(part, nn.ModuleDict):
        return {name: module(child) for name, child in part.items()}
    config: Any = getattr(part, "config", {})
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    state = part.state_dict()
    return {
        "class": type(part).__name__,
        "config": _lasting(json.loads(json.dumps(settings, default=str))),
        "dtypes": sorted({str(value.dtype) for value in state.values()}),
        "weights": digest(state),
    }


def _lasting(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _lasting(v) for k, v in value.items() if k not in VOLATILE and not k.startswith("_")}
    return [_lasting(item) for item in value] if isinstance(value, list) else value


def encoders(backbone: Any, stored: Iterable[str]) -> dict[str, str]:
    """SHA-256 of what made the `latents` and the `text` that are stored of a sample."""
    facts = {"latents": lambda: module(backbone.autoencoder), "text": lambda: reader(backbone)}
    return {kind: fingerprint(facts[kind]()) for kind in stored if kind in facts}


def fingerprint(facts: Any) -> str:
    """SHA-256 of JSON."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def tokenizer(part: Any) -> dict[str, str]:
    """SHA-256 of every file that a tokenizer saves."""
    found = {}
    with TemporaryDirectory() as folder:
        part.save_pretrained(folder)
        for path in sorted(file for file in Path(folder).rglob("*") if file.is_file()):
            text = path.read_bytes()
            if path.suffix == ".json":
                text = json.dumps(_lasting(json.loads(text)), sort_keys=True).encode()
            found[path.relative_to(folder).as_posix()] = hashlib.sha256(text).hexdigest()
    return found


def reader(backbone: Any) -> dict[str, Any]:
    """How a backbone over a pipeline reads prompts: text encoders, tokenizers, and settings such as `max_tokens`."""
    parts = backbone.pipeline.components
    return {
        "backbone": type(backbone).__name__,
        "settings": backbone.config.model_dump(mode="json", exclude=ELSEWHERE),
        "text_encoder": module(backbone.text_encoder),
        "tokenizers": {
            name: tokenizer(parts[name])
            for name in sorted(parts)
            if name.startswith("tokenizer") and parts[name] is not None
        },
    }
