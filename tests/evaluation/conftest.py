"""A model that is always right: its velocity leads from any noise straight to a render of its prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apex_cli.config import Section
from apex_cli.evaluation.jobs import Job
from apex_cli.evaluation.ledger import Shard
from apex_cli.evaluation.painters import Checkpoint
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.evaluation.shapes import Shapes, ShapesConfig
from apex_cli.flow.condition import Cond
from apex_cli.generation import SampleConfig
from apex_cli.worlds.shapes.grammar import prompts, scene_for
from apex_cli.worlds.shapes.renderer import render
from apex_cli.worlds.shapes.vocabulary import normalise


class Oracle:
    """A backbone whose latents are pixels; the embedding of a prompt is its place in the split, plus `shift`."""

    Config, config = Section, Section()
    lora_targets = ()
    latent_shape = (3, 64, 64)
    times = None
    cond_dim = 1

    def __init__(self, split: str = "iid", shift: int = 0):
        self.network = nn.Identity()
        self.prompts, self.shift = prompts(split), shift
        self.places = {normalise(prompt.text)[0]: place for place, prompt in enumerate(self.prompts)}
        self.drawn = 0

    def encode_prompts(self, texts: Sequence[str]) -> Cond:
        places = torch.tensor([float(self.places.get(text, 0) + self.shift) for text in texts])
        return Cond(places[:, None, None], torch.ones(len(texts), 1, dtype=torch.bool))

    def encode_images(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """(x_t - x) / t with x a render that the noise at t = 1 decides."""
        self.drawn += len(x_t)
        x = torch.stack([self._truth(int(place), row) for place, row in zip(cond.tokens[:, 0, 0], x_t, strict=True)])
        return (x_t - x) / t[:, None, None, None]

    def _truth(self, place: int, noise: Tensor) -> Tensor:
        rng = np.random.default_rng((noise.flatten()[:4].abs() * 1e6).long().tolist())
        scene = scene_for(self.prompts[place % len(self.prompts)], rng)
        return torch.from_numpy(render(scene)).permute(2, 0, 1).float() / 127.5 - 1

    def save(self, folder: Path) -> None:
        raise NotImplementedError


@dataclass(frozen=True)
class OracleModel:
    source: Path
    backbone: Oracle = field(default_factory=Oracle)
    sample: SampleConfig = field(default_factory=SampleConfig)
    contract: dict = field(default_factory=lambda: {"format": 1})


@pytest.fixture(scope="session")
def oracle(tmp_path_factory) -> Callable[..., OracleModel]:
    """Makes a fresh one, with a source folder of its own."""
    return lambda **options: OracleModel(tmp_path_factory.mktemp("oracle") / "model", Oracle(**options))


@pytest.fixture(scope="session")
def config() -> EvalConfig:
    """Two images of two prompts a task."""
    return EvalConfig(prompts=12, n=2, batch=5)


@pytest.fixture(scope="session")
def shapes() -> Shapes:
    return Shapes(ShapesConfig())


@pytest.fixture(scope="session")
def job(shapes) -> Callable[..., Job]:
    """`job(source, config, folder)`: an evaluation of a model or folder under `shapes`, or under `protocols`."""

    def make(source, config, folder: Path, shard: Shard = Shard(), protocols=None, certify: bool = False) -> Job:
        pictures = source if isinstance(source, Path) else Checkpoint(source)
        return Job(pictures, protocols or [shapes], shapes.prompts, config, folder, shard, certify)

    return make
