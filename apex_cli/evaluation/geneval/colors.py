"""GenEval's names of colours: CLIP zero-shot on the crop of an object, everything outside its mask painted #999.

A class word N has ten classifiers, one a colour c: the normalised mean of the normalised text features of

    "a photo of a c N",   "a photo of a c-colored N",   "a photo of a c object".

The colour is the one with the greatest cosine; there is no rejection. OpenAI's weights were trained with QuickGELU, and
a model that lost it (plain names of open_clip since 2.29) answers differently without any error: it is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from apex_cli.data.ahead import ahead
from apex_cli.evaluation.geneval.seen import Seen, from_runs
from apex_cli.evaluation.geneval_prompts import COLORS

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 2
TEMPLATES = ("a photo of a {color} {kind}", "a photo of a {color}-colored {kind}", "a photo of a {color} object")
OUTSIDE = "#999"
SCALE = 100.0
"""Of the cosines before the softmax, as OpenAI trained it."""
BATCH = 16


class ColorNamer:
    """The CLIP model of `folder`, on the accelerator if there is one; fp16 autocast on CUDA, as the official code."""

    def __init__(self, folder: Path, device: str | None = None):
        import torch

        from apex_cli.evaluation.clip import Clip, require_quick_gelu

        accelerator = torch.accelerator.current_accelerator(check_available=True)
        self.device = torch.device(device) if device else accelerator or torch.device("cpu")
        self.clip = Clip(folder).to(self.device)
        require_quick_gelu(self.clip.model.config)
        self.classifiers: dict[str, Tensor] = {}

    def name(self, things: Sequence[tuple[np.ndarray, Seen]]) -> list[dict[str, float]]:
        """How probable each of `COLORS` is for each object in its picture, uint8 [H, W, 3]. Objects of several pictures
        share a forward, and threads cut out the next ones meanwhile."""
        ready = ahead(self._prepare, things, window=BATCH + 1)
        rows: list[Tensor] = []
        while batch := list(islice(ready, BATCH)):
            rows += self._features(batch)
        return [self._probable(row, thing.kind) for row, (_, thing) in zip(rows, things, strict=True)]

    def _probable(self, feature: Tensor, kind: str) -> dict[str, float]:
        logits = SCALE * self._classifier(kind) @ feature
        return dict(zip(COLORS, logits.softmax(0).tolist(), strict=True))

    def _prepare(self, thing: tuple[np.ndarray, Seen]) -> Tensor:
        from apex_cli.evaluation import resizing

        return resizing.clip(np.asarray(crop(*thing)), self.clip.side)

    def _features(self, crops: Sequence[Tensor]) -> Tensor:
        """Normalised image features, float32 [n, d]."""
        import torch
        from torch.nn.functional import normalize

        pixels = torch.stack(list(crops)).to(self.device)
        with torch.inference_mode(), self._autocast():
            made = self.clip.model.get_image_features(pixel_values=pixels).pooler_output
        return normalize(made.float(), dim=-1)

    def _classifier(self, kind: str) -> Tensor:
        """Text features of the ten colours of a class word, float32 [10, d]."""
        if kind not in self.classifiers:
            self.classifiers[kind] = self._texts(kind)
        return self.classifiers[kind]

    def _texts(self, kind: str) -> Tensor:
        import torch
        from torch.nn.functional import normalize

        texts = [template.format(color=color, kind=kind) for color in COLORS for template in TEMPLATES]
        with torch.inference_mode(), self._autocast():
            made = self.clip.model.get_text_features(**self.clip.tokens(texts).to(self.device)).pooler_output
        each = normalize(made.float(), dim=-1).reshape(len(COLORS), len(TEMPLATES), -1)
        return normalize(each.mean(1), dim=-1)

    def _autocast(self) -> Any:
        import torch

        return torch.autocast(self.device.type, torch.float16, enabled=self.device.type == "cuda")


def crop(pixels: np.ndarray, thing: Seen) -> Image.Image:
    """The box of an object, rounded to pixels, with what is outside its mask painted over."""
    image = Image.fromarray(pixels)
    if thing.mask is not None:
        mask = Image.fromarray(from_runs(thing.mask, image.size))
        image = Image.composite(image, Image.new("RGB", image.size, OUTSIDE), mask)
    return image.crop(thing.corners)
