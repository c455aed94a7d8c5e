"""How many tokens a caption has, without the weights of any text encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from apex_cli.backbones import folders
from apex_cli.errors import SetupError


def load(path: str) -> Any:
    """The tokenizer of a pipeline or tokenizer folder, `assets:NAME` or hub id; of several the one that reads most.

    Raises `SetupError` where there is none.
    """
    from transformers import AutoTokenizer

    place = folders.locate(path)
    inside = sorted(folder.name for folder in Path(place).glob("tokenizer*") if folder.is_dir())
    # CLIP comes first and is asked for a summary; what follows it reads the whole prompt.
    below = inside[-1] if inside else ("" if Path(place).is_dir() else "tokenizer")
    try:
        return AutoTokenizer.from_pretrained(place, subfolder=below)
    except (OSError, ValueError) as error:
        remedy = "Give a pipeline folder, a tokenizer folder, assets:NAME, or a hub id."
        raise SetupError(f"'{path}' holds no tokenizer that can be read.", remedy) from error


def longest(pipeline: Any) -> Any:
    """The tokenizer of a pipeline that reads the whole prompt; see `load`."""
    return pipeline.components[max(name for name in pipeline.components if name.startswith("tokenizer"))]


def counter(tokenizer: Any) -> Callable[[str], int]:
    """Tokens of a text with those that the tokenizer adds itself (not those of a chat template)."""
    return lambda text: len(tokenizer(text, verbose=False).input_ids)
