"""A folded model in a folder of its own, proven before it is kept.

model_index.json, vae/, text_encoder/, tokenizer/, scheduler/   as the stock pipeline writes them
transformer/                                                    folded.safetensors, config.json
contract.json                                                   what was folded, at which noise levels, of what
manifest.json                                                   SHA-256 of every file: a changed part is refused
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from apex_cli.backbones.fast import stored
from apex_cli.errors import CheckpointError
from apex_cli.exporting.export import TOLERANCE, draw, forget_origin
from apex_cli.training import checkpoint

PROMPT = "a red cube"
LEAST_PSNR = 40.0
"""dB between the pictures of the folded and the plain model where weights have fewer bits than float32."""


def fold(plain: Any, fast: Any, load: Callable[[Path], Any], folder: Path, of: str) -> float:
    """Write `folder` from the two `build.Model`s of one checkpoint; the largest difference of a pixel in 0..1 between
    the plain model and the one read back by `load`. `of`: the hash of that checkpoint. A failed proof leaves nothing.

    Raises `CheckpointError` where the pictures differ.
    """
    picture = draw(plain, PROMPT)[1]

    def fill(staging: Path) -> None:
        pipeline = plain.backbone.pipeline
        pipeline.save_config(staging)
        for name, part in pipeline.components.items():
            if name != "transformer" and hasattr(part, "save_pretrained"):
                part.save_pretrained(staging / name)
        (staging / "transformer").mkdir()
        stored.save(fast.backbone, staging / "transformer")
        forget_origin(staging)
        (staging / "contract.json").write_text(json.dumps(_contract(plain, fast.backbone, of), indent=1))
        shutil.copy(plain.source / "recipe.toml", staging / "recipe.toml")

    checkpoint.write(folder, fill)
    try:
        difference = draw(load(folder), PROMPT)[1] - picture
        _judge(difference, plain.backbone.network.dtype)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return float(difference.abs().max())


def _contract(plain: Any, twin: Any, of: str) -> dict[str, Any]:
    contract, row = plain.contract, plain.contract["backbone"]
    about = {"times": twin.times, "foldings": twin.folded, "of": of}
    return contract | {
        "tuning": "folded",
        "weights": "transformer",
        "folded": about,
        "backbone": {**row, "config": {**row["config"], "path": None}, "manifest": None},
    }


def _judge(difference: torch.Tensor, dtype: torch.dtype) -> None:
    worst, psnr = float(difference.abs().max()), float(-10 * difference.square().mean().log10())
    if worst > TOLERANCE if dtype == torch.float32 else psnr < LEAST_PSNR:
        reason = f"The folded model draws another picture: {worst:.1e} apart, PSNR {psnr:.1f} dB. It was removed."
        raise CheckpointError(reason, "Use the run itself, with --plain.")
