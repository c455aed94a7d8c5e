"""Prompts to images: the one way images are made, by `sample`, `eval` and the grids of a training run.

The noise of an image depends on (seed, index) alone, so an image is the same at any batch size. Network evaluations
are counted where they happen, never taken from the settings.

settings.py: how a model is sampled. diversity.py, grid.py: what is measured of the images, and how they are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeVar, cast

from apex_cli.errors import UsageError
from apex_cli.generation.settings import SampleConfig
from apex_cli.registry import resolve

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

    from apex_cli.backbones.base import Backbone
    from apex_cli.flow.condition import Cond
    from apex_cli.flow.guidance import Rescale


Item = TypeVar("Item")


@dataclass(frozen=True)
class Request:
    """One image to make; equal (prompt, seed, index) and weights give the same image."""

    prompt: str
    seed: int = 0
    index: int = 0


@dataclass(frozen=True)
class Sample:
    """`pixels` uint8 [H, W, 3], `latent` [C, h, w], `nfe`: evaluations counted for this image. What they were made of:
    `noise` like `latent`, and `cond`, one row padded to the longest of its batch."""

    request: Request
    pixels: np.ndarray
    latent: Tensor
    nfe: float
    noise: Tensor
    cond: Cond


def generator(*key: int) -> Generator:
    """A CPU generator that is a function of `key`, e.g. (seed, image index) or (seed, step)."""
    import numpy as np
    import torch

    return torch.Generator().manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> 1))


class CountedVelocity:
    """A velocity that counts the rows it evaluates and applies guidance; `rescale`: see `guidance_rescale`."""

    def __init__(self, backbone: Backbone, guidance: float, uncond: Cond | None, rescale: Rescale | None = None):
        self.backbone, self.guidance, self.uncond, self.rows = backbone, guidance, uncond, 0
        self.rescale: Rescale | None = rescale

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        from apex_cli.flow.guidance import guided

        self.rows += len(x_t)
        velocity = self.backbone.velocity(x_t, t, cond)
        if self.uncond is None:
            return velocity
        self.rows += len(x_t)
        empty = self.backbone.velocity(x_t, t, self.uncond.expand(len(x_t)))
        return guided(velocity, empty, self.guidance, self.rescale, self.backbone.patch)


def chunks(items: Iterable[Item], batch: int) -> Iterator[list[Item]]:
    """`batch` at a time; no more of them are asked for than that."""
    rest = iter(items)
    while some := list(islice(rest, batch)):
        yield some


def generate(
    backbone: Backbone, config: SampleConfig, requests: Iterable[Request], batch: int = 32
) -> Iterator[Sample]:
    """Make the images of `requests` in order, `batch` at a time.

    Raises `UsageError` where the backbone is folded at other times than those of `config`.
    """
    stages = Stages(backbone, config)
    for some in chunks(requests, batch):
        yield from stages.decode(stages.draw(stages.read(some)))


def check_times(backbone: Backbone, config: SampleConfig) -> None:
    """Raise `UsageError` unless the backbone answers at the times of `config`; known before anything runs."""
    if backbone.times is None or set(config.times()) <= set(backbone.times):
        return
    known, asked = (", ".join(f"{t:g}" for t in times) for times in (backbone.times, config.times()))
    raise UsageError(
        f"This model is folded at the noise levels {known}, and NFE {config.nfe} asks at {asked}.",
        "Use --plain, an --nfe it was folded for, or fold it again.",
    )


@dataclass(frozen=True)
class Batch:
    """Images on their way: `requests`, what was read and drawn for them, and after the network `latents` and `nfe`."""

    requests: Sequence[Request]
    cond: Cond
    noise: Tensor
    gens: list[Generator]
    latents: Tensor | None = None
    nfe: float = 0


class Stages:
    """The three stages of a batch, each after the one before it; no gradient is kept.

    Raises `UsageError` where the backbone is folded at other times than those of `config`.
    """

    def __init__(self, backbone: Backbone, config: SampleConfig):
        import torch

        check_times(backbone, config)
        self.backbone, self.config, self.sampler = backbone, config, resolve("sampler", config.sampler)
        with torch.no_grad():
            self.uncond = backbone.encode_prompts([config.negative_prompt or ""]) if config.guidance != 1 else None

    def read(self, requests: Sequence[Request]) -> Batch:
        """Prompts to embeddings, seeds to noise."""
        import torch

        gens = [generator(request.seed, request.index) for request in requests]
        prompts = list(dict.fromkeys(request.prompt for request in requests))  # each is read once
        rows = torch.tensor([prompts.index(request.prompt) for request in requests])
        with torch.no_grad():
            known = self.backbone.encode_prompts(prompts)
            cond = known.select(rows.to(known.tokens.device))
        noise = torch.stack([torch.randn(self.backbone.latent_shape, generator=g) for g in gens])
        return Batch(requests, cond, noise.to(cond.tokens.device), gens)

    def draw(self, batch: Batch) -> Batch:
        """The network along the noise levels, its evaluations counted."""
        import torch

        config = self.config
        velocity = CountedVelocity(self.backbone, config.guidance, self.uncond, config.guidance_rescale)
        with torch.no_grad():
            latents = self.sampler(velocity, batch.noise, config.grid(), batch.cond, batch.gens)
        return replace(batch, latents=latents, nfe=velocity.rows / len(batch.requests))

    def decode(self, batch: Batch) -> list[Sample]:
        """Latents to pixels on the host."""
        import torch

        latents, cond = cast("Tensor", batch.latents), batch.cond
        with torch.no_grad():
            pixels = to_pixels(self.backbone.decode(latents))
        conds = [cond.select(slice(i, i + 1)) for i in range(len(cond))]
        made = zip(batch.requests, pixels, latents, batch.noise, conds, strict=True)
        return [Sample(r, p, x, batch.nfe, z, c) for r, p, x, z, c in made]


def unit_range(images: Tensor) -> Tensor:
    """Images in [-1, 1] -> float32 in [0, 1], as the stock pipelines scale them."""
    return (images.float() / 2 + 0.5).clamp(0, 1)


def to_pixels(images: Tensor) -> np.ndarray:
    """[B, 3, H, W] in [-1, 1] -> uint8 [B, H, W, 3], rounded as the stock pipelines round."""
    return (unit_range(images).permute(0, 2, 3, 1).cpu().numpy() * 255).round().astype("uint8")
