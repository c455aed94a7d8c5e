"""Every backbone of the registry in its smallest form, with weights that give a velocity other than zero."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import tiny_pipelines
import torch
from tiny_runs import TINY

from apex_cli import registry
from apex_cli.generation import CountedVelocity
from apex_cli.samplers import euler

TINY_QWEN = {"width": 32, "layers": 2, "heads": 2, "text_width": 32, "text_layers": 1, "vae_width": 4}
"""A pipeline of 0.3 M parameters; two layers, because the last one is special."""
SMALLEST: dict[str, dict[str, Any]] = {
    "sana": {"tiny": TINY, "max_tokens": 64},
    "qwen_image": {"tiny": TINY_QWEN, "max_tokens": 64},
    **{name: {"resolution": tiny_pipelines.RESOLUTION, "max_tokens": 64} for name in tiny_pipelines.BUILDERS},
    "mlp": {"width": 16, "depth": 2},
}
"""A new backbone states its smallest configuration here and gets the contract's tests; one without a world of its own
also has a row in `tiny_pipelines.BUILDERS`, whose folder becomes its `path`."""
PROMPTS = ["a red cube", "a photo of two blue spheres and a green star", ""]
OTHER_PROMPTS = {"mlp": ["condition 0", "condition 3", ""]}


@dataclass(frozen=True)
class Stock:
    """How a stock pipeline is told to do what we do and no more; `packed`: its latents are rows of patches."""

    arguments: dict[str, Any] = field(default_factory=dict)
    packed: bool = False


STOCK: dict[str, Stock] = {
    "sana": Stock({"guidance_scale": 1.0, "use_resolution_binning": False, "complex_human_instruction": None}),
    "qwen_image": Stock({"true_cfg_scale": 1.0}, packed=True),
    "zimage": Stock({"guidance_scale": 0.0}),
    "flux": Stock({"guidance_scale": 1.0}, packed=True),
    "sd3": Stock({"guidance_scale": 1.0}),
}
"""Every backbone that wraps a diffusers pipeline is held against it."""


@dataclass
class Case:
    """A backbone under test, and inputs for it: three prompts of different lengths."""

    name: str
    model: Any

    @property
    def prompts(self) -> list[str]:
        return OTHER_PROMPTS.get(self.name, PROMPTS)

    def inputs(self, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
        gen = torch.Generator().manual_seed(1)
        return torch.randn(rows, *self.model.latent_shape, generator=gen), torch.rand(rows, generator=gen)

    def trainable(self) -> Any:
        """The model with a network of its own, all of it trainable."""
        model = copy.copy(self.model)
        model.network = copy.deepcopy(self.model.network).requires_grad_(True)
        return model

    def euler(
        self, noise: torch.Tensor, sigmas: Sequence[float], guidance: float = 1.0, negative: str = ""
    ) -> torch.Tensor:
        """What our sampler makes of `noise`."""
        uncond = self.model.encode_prompts([negative]) if guidance != 1 else None
        velocity = CountedVelocity(self.model, guidance, uncond, "patch" if self.name == "qwen_image" else None)
        return euler.sample(velocity, noise, sigmas, self.model.encode_prompts(self.prompts), [])

    def stock(
        self,
        noise: torch.Tensor,
        sigmas: Sequence[float],
        output: str = "latent",
        pipeline: Any = None,
        **asked: Any,
    ) -> Any:
        """What diffusers' own pipeline makes of `noise`: latents of its shape, or images."""
        pipeline, how, side = pipeline or self.model.pipeline, STOCK[self.name], self.model.config.resolution
        pipeline.set_progress_bar_config(disable=True)
        made = pipeline(
            list(self.prompts),  # Z-Image writes its chat template into the list
            latents=pipeline._pack_latents(noise, *noise.shape) if how.packed else noise.clone(),
            sigmas=list(sigmas[:-1]),
            num_inference_steps=len(sigmas) - 1,
            height=side,
            width=side,
            max_sequence_length=self.model.config.max_tokens,
            output_type=output,
            **how.arguments | asked,
        ).images
        if how.packed and output == "latent":
            made = pipeline._unpack_latents(made, side, side, pipeline.vae_scale_factor).reshape(noise.shape)
        return made


def make(name: str, folder: Path, **changes: Any) -> Any:
    kind, settings = registry.resolve("backbone", name), SMALLEST[name] | changes
    if name in tiny_pipelines.BUILDERS:
        settings = settings | {"path": str(tiny_pipelines.write(name, folder))}
    model = kind(kind.Config(**settings))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for value in model.network.parameters():
            if not value.any():
                torch.nn.init.normal_(value, std=0.3)
    return model


@pytest.fixture(scope="session")
def build(tmp_path_factory) -> Callable[..., Any]:
    """`build(name)`: the backbone anew, always with the same weights; further arguments change its configuration."""
    return lambda name, **changes: make(name, tmp_path_factory.mktemp(name), **changes)


@pytest.fixture(scope="session")
def cases(build) -> Callable[[str], Case]:
    """`cases(name)`: each made once."""
    return cache(lambda name: Case(name, build(name)))


@pytest.fixture(params=registry.names("backbone"))
def case(request, cases) -> Case:
    return cases(request.param)


@pytest.fixture(params=[name for name in registry.names("backbone") if name in STOCK])
def piped(request, cases) -> Case:
    """A case whose backbone wraps a diffusers pipeline."""
    return cases(request.param)


@pytest.fixture
def sana(cases):
    """A SANA of its own configuration; the weights are shared and must not be changed."""
    return copy.copy(cases("sana").model)


@pytest.fixture
def qwen(cases):
    """A Qwen-Image of its own configuration; the weights are shared and must not be changed."""
    return copy.copy(cases("qwen_image").model)
