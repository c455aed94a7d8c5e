"""Rendered scenes of the shapes world: row i of the data is a pure function of (seed, i)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from apex_cli.config import Section
from apex_cli.worlds.shapes.grammar import Prompt, caption, example
from apex_cli.worlds.shapes.questions import ANSWERS, answers
from apex_cli.worlds.shapes.renderer import render


class ShapesConfig(Section):
    size: int = Field(default=40_000, ge=1)
    """Scenes in the set."""
    split: str = "train"
    seed: int = 0
    resolution: int = 64


class ShapesData:
    """`prompts(rows)`, `pixels(rows)` and `answers(rows)`; nothing is stored, everything is drawn when asked for."""

    Config = ShapesConfig
    questions = ANSWERS

    def __init__(self, config: ShapesConfig):
        self.config = config
        self.caption = cache(partial(caption, config.split, config.seed))
        """Row -> its prompt, which every pass over the rows asks for again."""
        self.fingerprint = hashlib.sha256(f"shapes-7 {config.model_dump_json()}".encode()).hexdigest()

    def __len__(self) -> int:
        return self.config.size

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [prompt.text for prompt in self._captions(rows)]

    def answers(self, rows: Sequence[int]) -> Tensor:
        """What the captions say (`worlds/shapes/questions.py`), int64 [B, Q]."""
        return torch.tensor([answers(prompt) for prompt in self._captions(rows)])

    def _captions(self, rows: Sequence[int]) -> list[Prompt]:
        return [self.caption(int(row)) for row in rows]

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1]."""
        scenes = (example(self.config.split, self.config.seed, int(row))[1] for row in rows)
        images = np.stack([render(scene, self.config.resolution) for scene in scenes])
        return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
