"""A network's features of every picture, as a stage: pictures are read and resized ahead of the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apex_cli.evaluation import canary
from apex_cli.evaluation.base import Item, Observation, Picture

VERSION = 1
"""Raised when code changes what features are: part of every identity."""


@dataclass(frozen=True)
class Extractor:
    """`prepare`: uint8 [H, W, 3] -> float32 [3, h, w], by threads; `load`: the network, which maps [B, 3, h, w] to
    [B, d]; `identity`: all that its features depend on."""

    identity: Mapping[str, Any]
    prepare: Callable[[np.ndarray], Tensor]
    load: Callable[[], nn.Module | Callable[[Tensor], Tensor]]


def accelerator() -> torch.device:
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


class FeatureStage:
    """Observes {"features": float32 [d]}. `batch`: pictures in one pass of the network."""

    name, uses = "features", ()

    def __init__(self, extractor: Extractor, batch: int = 32):
        self.extractor, self.batch = extractor, batch
        self.identity = {**extractor.identity, "version": VERSION}
        self.network: Any = None

    def question(self, item: Item) -> str:
        return ""

    def open(self) -> None:
        if self.network is None:
            network = self.extractor.load()
            canary.check(self.identity, self.extractor.prepare, network, accelerator())
            self.network = network

    def prepare(self, picture: Picture) -> Tensor:
        return self.extractor.prepare(picture.pixels())

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        return [{"features": row} for row in run(self.network, torch.stack(list(prepared)), accelerator())]


def run(network: Callable[[Tensor], Tensor], batch: Tensor, device: torch.device) -> np.ndarray:
    """float32 [B, d]."""
    with torch.inference_mode():
        return network(batch.to(device)).float().cpu().numpy()
