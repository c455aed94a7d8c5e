"""Teaches a text encoder to read: a linear layer on the last token must answer questions about the caption.

A small encoder that learns from the flow loss alone stays a bag of words for hours ("above" and "below" move almost no
pixel of a mean image); real pipelines start from an encoder that can read, and so does the embedded world (ours).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field, PositiveInt
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy

from apex_cli.config import Section
from apex_cli.objectives.base import Batch, Draws, Loss, Needs, Nets


class ReadingConfig(Section):
    answers: tuple[PositiveInt, ...] = Field(min_length=1)
    """How many answers each question has, as the data counts them."""


class Reading:
    """`batch.x` [B, Q] int64: the right answers. `modules` is the linear layer, which only training needs."""

    Config = ReadingConfig
    needs = Needs(trains="text_encoder", inputs="answers")

    def __init__(self, config: ReadingConfig, cond_dim: int):
        self.config = config
        self.modules: nn.Module = nn.Linear(cond_dim, sum(config.answers))
        for value in self.modules.parameters():
            nn.init.zeros_(value)

    def draw(self, shape: Sequence[int], gen: Generator, progress: float = 0.0) -> Draws:
        """Nothing is random."""
        return {}

    def loss(self, nets: Nets, batch: Batch, draws: Draws) -> Loss:
        tokens, mask = batch.cond.tokens, batch.cond.mask
        last = tokens[torch.arange(len(batch), device=tokens.device), mask.sum(1) - 1]
        guesses: Sequence[Tensor] = self.modules(last).split(self.config.answers, dim=1)
        questions = list(zip(guesses, batch.x.unbind(1), strict=True))
        error = torch.stack([cross_entropy(guess, right, reduction="none") for guess, right in questions]).sum(0)
        read = torch.stack([guess.argmax(1) == right for guess, right in questions]).all(0)
        return Loss(parts={"reading": error.mean()}, weights={"reading": 1.0}, watch={"read": read.float()})
