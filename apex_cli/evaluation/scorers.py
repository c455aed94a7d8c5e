"""Judges of single pictures, for `apex synth-data` to keep the best of n: a name of the registry, and `score`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from pydantic import Field

from apex_cli.config import Section
from apex_cli.errors import DataError, SetupError
from apex_cli.generation import Sample
from apex_cli.worlds.shapes.detector import detect
from apex_cli.worlds.shapes.grammar import PREFIX, SPLITS, Prompt, prompts
from apex_cli.worlds.shapes.scoring import judge
from apex_cli.worlds.shapes.vocabulary import normalise


class ShapesConfig(Section):
    pass


class ShapesScorer:
    """1 where the strict rule finds the picture right, else 0, plus the mean confidence of what was detected, which
    orders pictures that are equal in this."""

    Config = ShapesConfig
    name = "shapes"

    def __init__(self, config: ShapesConfig):
        self.identity = {"name": self.name, "rule": "strict-1"}

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """Raises `DataError` for a prompt that is not of the grammar."""
        verdicts = (judge(demands(sample.request.prompt), detect(sample.pixels)) for sample in samples)
        return [float(verdict.correct + verdict.confidence) for verdict in verdicts]


def demands(text: str) -> Prompt:
    """The prompt of the shapes world that reads `text`, with or without "a photo of"."""
    if text not in _known():
        remedy = "Take prompts of shapes:SPLIT, or another scorer."
        raise DataError(f"The shapes scorer does not know what '{text}' asks for.", remedy)
    return _known()[text]


@cache
def _known() -> dict[str, Prompt]:
    found = {normalise(prompt.text)[0]: prompt for split in SPLITS for prompt in prompts(split)}
    return {text.removeprefix(PREFIX): prompt for text, prompt in found.items()} | found


class ClipConfig(Section):
    model: str = "openai/clip-vit-large-patch14"
    """A folder of a `CLIPModel` with its tokenizer, or a hub id."""
    batch: int = Field(default=64, ge=1)


class ClipScorer:
    """CLIP score: 100 times the cosine of picture and prompt, which is cut to the model's tokens with the end kept.

    Pictures are scaled as CLIP's own code does: bicubic to the shorter side, the centre, its mean and deviation.
    """

    Config = ClipConfig
    name = "clip"
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)

    def __init__(self, config: ClipConfig):
        import torch
        from safetensors import SafetensorError
        from transformers import CLIPModel, CLIPTokenizer

        from apex_cli.data.identity import fingerprint, module

        try:
            self.model: Any = CLIPModel.from_pretrained(config.model, use_safetensors=True).eval()
            self.tokenizer = CLIPTokenizer.from_pretrained(config.model)
        except (OSError, SafetensorError) as error:
            told = f"The CLIP model '{config.model}' could not be read: {str(error).splitlines()[0]}"
            remedy = "Set scorer.model to a folder, or check the network (HF_HUB_OFFLINE=1 forbids it)."
            raise SetupError(told, remedy) from error
        self.identity = {"name": self.name, "model": fingerprint(module(self.model))}
        self.batch, self.side = config.batch, self.model.config.vision_config.image_size
        self.device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
        self.model.to(self.device)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        parts = [samples[i : i + self.batch] for i in range(0, len(samples), self.batch)]
        return [score for part in parts for score in self._score(part)]

    def _score(self, samples: Sequence[Sample]) -> list[float]:
        import torch
        from torch.nn.functional import cosine_similarity

        length = self.model.config.text_config.max_position_embeddings
        texts = [sample.request.prompt for sample in samples]
        tokens = self.tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
        with torch.no_grad():
            pixels = torch.from_numpy(np.stack([self.prepare(sample.pixels) for sample in samples])).to(self.device)
            made = self.model(pixel_values=pixels, **tokens.to(self.device))
        return (100 * cosine_similarity(made.image_embeds, made.text_embeds)).tolist()

    def prepare(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] -> float32 [3, side, side]."""
        from PIL import Image, ImageOps

        image = ImageOps.fit(Image.fromarray(pixels), (self.side, self.side), Image.Resampling.BICUBIC)
        scaled = (np.asarray(image, np.float32) / 255 - np.asarray(self.mean, np.float32)) / np.asarray(
            self.std, np.float32
        )
        return scaled.transpose(2, 0, 1)
