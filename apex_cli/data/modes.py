"""Training data of the 2-D world: a fixed set of points, so that a batch is a pure function of its indices."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import PositiveInt
from torch import Generator, Tensor

from apex_cli.config import Section
from apex_cli.worlds.modes import CONDITIONS, PROMPTS, draw


class ModesDataConfig(Section):
    size: PositiveInt = 65536
    seed: int = 0


class ModesData:
    Config = ModesDataConfig

    def __init__(self, config: ModesDataConfig):
        self._condition = torch.arange(config.size) % CONDITIONS
        self._x = draw(self._condition, Generator().manual_seed(config.seed))

    def __len__(self) -> int:
        return len(self._x)

    def batch(self, indices: Sequence[int]) -> tuple[list[str], Tensor]:
        """Prompts and latents [B, 2, 1, 1] of the examples `indices` (each below `len`)."""
        index = torch.as_tensor(indices)
        return [PROMPTS[k] for k in self._condition[index].tolist()], self._x[index]
