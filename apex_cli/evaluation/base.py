"""What `run.evaluate` asks of a suite and of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from apex_cli.backbones.base import Backbone
from apex_cli.evaluation.records import Certificate, ImageRecord, Setting
from apex_cli.generation import Request, Sample, SampleConfig


class Suite(Protocol):
    """Prompts to be drawn and a judge of the pictures; everything is a pure function of its settings."""

    setting: Setting
    requests: Sequence[Request]

    def score(self, sample: Sample) -> ImageRecord:
        """Judge one image."""
        ...

    def truth(self, records: Sequence[ImageRecord]) -> np.ndarray:
        """Perfect pictures of the same prompts, uint8 [n, H, W, 3]."""
        ...

    def certify(self) -> Certificate:
        """What the judge itself is worth: the scores of perfect pictures and of shuffled ones."""
        ...


class Model(Protocol):
    """A model with its contract, as the composition root loads it."""

    @property
    def backbone(self) -> Backbone: ...
    @property
    def sample(self) -> SampleConfig: ...
    @property
    def contract(self) -> Mapping[str, Any]: ...
    @property
    def source(self) -> Path: ...
