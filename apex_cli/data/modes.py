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

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [PROMPTS[k] for k in self._condition[torch.as_tensor(rows)].tolist()]

    def latents(self) -> Tensor:
        """All points, [size, 2, 1, 1]: there is nothing to encode."""
        return self._x
