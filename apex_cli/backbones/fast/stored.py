"""The transformer of a fast twin on disk: `folded.safetensors`, read into a structure that never had the whole weights.

What lies beside it (autoencoder, text encoder, tokenizer) is the plain pipeline's; their foldings take seconds and are
made again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from apex_cli.backbones.fast import twin
from apex_cli.errors import CheckpointError

FILE = "folded.safetensors"


def save(made: twin.Fast, folder: Path) -> None:
    """Write the configuration and the folded weights of the transformer."""
    from safetensors.torch import save_file

    made.network.save_config(folder)
    state = {name: value.detach().contiguous() for name, value in made.network.state_dict().items()}
    save_file(state, folder / FILE)


def load(name: str, plain: type[Any], config: Any, folder: Path, times: Sequence[float]) -> twin.Fast:
    """The twin of the backbone `name` in the pipeline folder `config.path`; `folder` is that of its transformer.

    Raises `CheckpointError` where another version of apex folds otherwise than the one that wrote it.
    """
    from accelerate import init_empty_weights
    from safetensors.torch import load_file

    with init_empty_weights():
        network = _network(folder)
    made = twin.make(name, plain(config, network), times)
    try:
        made.network.load_state_dict(load_file(folder / FILE), assign=True)
    except RuntimeError as error:
        reason = f"'{folder}' was folded by another version of apex."
        raise CheckpointError(reason, "Fold it again: apex ckpt fold.") from error
    return made


def _network(folder: Path) -> torch.nn.Module:
    import diffusers

    facts = json.loads((folder / "config.json").read_text())
    return getattr(diffusers, facts["_class_name"]).from_config(facts)
