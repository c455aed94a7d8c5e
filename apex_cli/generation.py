"""Prompts to images: the one way images are made, by `sample`, `eval` and the grids of a training run.

The noise of an image depends on (seed, index) alone, so an image is the same at any batch size. Network evaluations
are counted where they happen, never taken from the settings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice
from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field, ValidationError, field_validator, model_validator

from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.registry import resolve

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor

    from apex_cli.backbones.base import Backbone
    from apex_cli.flow.condition import Cond
    from apex_cli.flow.guidance import Rescale

FEW_STEP_SIGMAS = {1: (1.0, 0.0), 2: (1.0, 0.6, 0.0), 4: (1.0, 0.83, 0.67, 0.5, 0.0)}
"""Sigmas for 1, 2 and 4 evaluations with the renoise sampler."""
FOR_GUIDANCE = ("negative_prompt", "guidance_rescale")
"""Settings that say nothing at guidance 1."""


class SampleConfig(Section):
    """How a model is sampled; saved in a checkpoint's contract, so that `apex sample --ckpt` needs no flag."""

    sampler: Literal["euler", "heun", "renoise"] = "renoise"
    nfe: int = Field(default=1, ge=1)
    """Network evaluations per image. Guidance costs two a step, and so halves the steps."""
    guidance: float = Field(default=1.0, ge=0)
    """v_uncond + guidance (v_cond - v_uncond); 1 means none and costs nothing."""
    time_shift: float = Field(default=1.0, gt=0)
    """Moves the even grid of `nfe` towards noise: s -> time_shift s / (1 + (time_shift - 1) s)."""
    sigmas: tuple[float, ...] | None = Field(default=None, min_length=2)
    """Explicit noise levels from 1 to 0, instead of the even grid of `nfe`."""
    negative_prompt: str | None = None
    """What v_uncond is conditioned on; None is the empty prompt."""
    guidance_rescale: Literal["patch"] | None = None
    """"patch": the guided velocity is given the length of v_cond in every patch of the latents, as Qwen-Image's stock
    pipeline does (`true_cfg_scale`)."""

    @field_validator("sigmas", mode="after")
    @classmethod
    def _ordered(cls, sigmas: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if sigmas is not None and (sigmas[0] > 1 or sigmas[-1] != 0 or list(sigmas) != sorted(set(sigmas))[::-1]):
            raise ValueError("must fall from at most 1 to 0")
        return sigmas

    @model_validator(mode="after")
    def _affordable(self) -> SampleConfig:
        if (cost := self._cost()) != self.nfe:
            how = "these sigmas take" if self.sigmas else f"{self.sampler} at guidance {self.guidance:g} can take"
            raise ValueError(f"{how} {cost} evaluations, not nfe = {self.nfe}; set nfe = {cost}")
        return self

    @model_validator(mode="after")
    def _heard(self) -> SampleConfig:
        """What would be ignored is an error."""
        if self.guidance == 1 and (idle := [name for name in FOR_GUIDANCE if getattr(self, name) is not None]):
            raise ValueError(f"{' and '.join(idle)} changes nothing at guidance 1; leave it out, or set guidance")
        few = self._few_steps() if self.sigmas is None else None
        if self.time_shift != 1 and few and len(few) > 2:  # a single step has no level that could move
            levels = ", ".join(f"{sigma:g}" for sigma in few)
            raise ValueError(
                f"time_shift does not move the noise levels of renoise at {len(few) - 1} steps, {levels}; "
                "leave it out, or set sigmas"
            )
        return self

    def _cost(self) -> int:
        """Evaluations that `grid()` spends: Heun's method two a step and one for the last, guidance twice that."""
        steps = len(self.grid()) - 1
        return (2 * steps - 1 if self.sampler == "heun" else steps) * (1 if self.guidance == 1 else 2)

    def grid(self) -> tuple[float, ...]:
        """The noise levels that spend `nfe` evaluations."""
        if self.sigmas is not None:
            return self.sigmas
        if few := self._few_steps():
            return few
        steps = self._steps()
        even = [1 - i / steps for i in range(steps + 1)]
        return tuple(self.time_shift * s / (1 + (self.time_shift - 1) * s) for s in even)

    def _steps(self) -> int:
        steps = max(1, self.nfe // 2) if self.guidance != 1 else self.nfe
        return (steps + 1) // 2 if self.sampler == "heun" else steps

    def _few_steps(self) -> tuple[float, ...] | None:
        """The noise levels of its own that renoise has at few steps."""
        return FEW_STEP_SIGMAS.get(self._steps()) if self.sampler == "renoise" else None

    def times(self) -> tuple[float, ...]:
        """The noise levels at which the network is asked: all but the last, 0."""
        return self.grid()[:-1]

    def changed(
        self, nfe: int | None = None, sampler: str | None = None, guidance: float | None = None
    ) -> SampleConfig:
        """These settings with those that are given in their place; themselves where that changes nothing.

        Explicit `sigmas` are for the settings they came with and go with them. One evaluation leaves no room for
        guidance, which takes two, and what is for guidance alone goes with it. Raises `UsageError` for what cannot be.
        """
        guidance = 1.0 if nfe == 1 and guidance is None else guidance
        given = {"nfe": nfe, "sampler": sampler, "guidance": guidance}
        changes = {name: value for name, value in given.items() if value not in (None, getattr(self, name))}
        if not changes:
            return self
        idle = dict.fromkeys(FOR_GUIDANCE) if guidance == 1 else {}
        try:
            return SampleConfig(**{**self.model_dump(), **changes, **idle, "sigmas": None})
        except ValidationError as error:
            told = ", ".join(f"{name} = {value}" for name, value in changes.items())
            reason = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise UsageError(f"This model cannot be sampled at {told}: {reason}.", "Choose other values.") from error

    def with_nfe(self, nfe: int) -> SampleConfig:
        """`changed` in the number of evaluations alone."""
        return self.changed(nfe=nfe)


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


def chunks(requests: Iterable[Request], batch: int) -> Iterator[list[Request]]:
    """`batch` at a time; no more of them are asked for than that."""
    rest = iter(requests)
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


def diversity(images: np.ndarray, per_prompt: int) -> float | None:
    """Mean RMS distance, of pixels in 0..1, between the images of one prompt: 0 means that seeds are ignored.

    `images` uint8 [N, H, W, 3], `per_prompt` neighbours share a prompt; None where there is nothing to compare.
    """
    import numpy as np

    if per_prompt == 1:
        return None
    rows = images.reshape(-1, per_prompt, *images.shape[1:]).astype(np.float32) / 255
    pairs = [np.sqrt(((rows[:, a] - rows[:, b]) ** 2).mean((1, 2, 3))) for a, b in combinations(range(per_prompt), 2)]
    return float(np.mean(pairs))


def grid_picture(rows: Sequence[Sequence[np.ndarray]], zoom: int = 1, gap: int = 2):
    """A PIL picture of images [H, W, 3] laid out in rows, each enlarged `zoom` times."""
    import numpy as np
    from PIL import Image

    height, width = rows[0][0].shape[:2]
    canvas = np.full(
        (len(rows) * (height + gap) - gap, max(map(len, rows)) * (width + gap) - gap, 3), 255, dtype=np.uint8
    )
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas).resize((canvas.shape[1] * zoom, canvas.shape[0] * zoom), Image.Resampling.NEAREST)
