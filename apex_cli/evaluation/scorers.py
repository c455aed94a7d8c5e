"""Judges of single pictures, for `apex synth-data` to keep the best of n: a name of the registry, and `score`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from pydantic import Field

from apex_cli.config import Section
from apex_cli.errors import DataError
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
    """CLIP score: 100 times the cosine of picture and prompt, which is cut to the model's tokens with the end kept."""

    Config = ClipConfig
    name = "clip"

    def __init__(self, config: ClipConfig):
        from apex_cli.data.identity import fingerprint, module
        from apex_cli.evaluation.clip import Clip
        from apex_cli.evaluation.features import accelerator

        self.clip = Clip(config.model)
        self.identity = {"name": self.name, "model": fingerprint(module(self.clip.model))}
        self.batch, self.device = config.batch, accelerator()
        self.clip.to(self.device)

    def score(self, samples: Sequence[Sample]) -> list[float]:
        parts = [samples[i : i + self.batch] for i in range(0, len(samples), self.batch)]
        return [score for part in parts for score in self._score(part)]

    def _score(self, samples: Sequence[Sample]) -> list[float]:
        import torch

        from apex_cli.evaluation.resizing import clip

        pixels = torch.stack([clip(sample.pixels, self.clip.side) for sample in samples]).to(self.device)
        with torch.no_grad():
            return (100 * self.clip(pixels, [sample.request.prompt for sample in samples])).tolist()
