"""Every backbone of the registry in its smallest form, with weights that give a velocity other than zero."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tiny_runs import TINY

from apex_cli import registry

SMALLEST: dict[str, dict[str, Any]] = {
    "sana": {"tiny": TINY, "max_tokens": 64},
    "mlp": {"width": 16, "depth": 2},
}
"""A new backbone states its smallest configuration here and gets the contract's tests."""
PROMPTS = {
    "sana": ["a red cube", "a photo of two blue spheres and a green star", ""],
    "mlp": ["condition 0", "condition 3", ""],
}


@dataclass
class Case:
    """A backbone under test, and inputs for it: three prompts of different lengths."""

    name: str
    model: Any
    prompts: list[str]

    def inputs(self, rows: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
        gen = torch.Generator().manual_seed(1)
        return torch.randn(rows, *self.model.latent_shape, generator=gen), torch.rand(rows, generator=gen)


def build(name: str) -> Any:
    kind = registry.resolve("backbone", name)
    model = kind(kind.Config(**SMALLEST[name]))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        for value in model.network.parameters():
            if not value.any():
                torch.nn.init.normal_(value, std=0.3)
    return model


@pytest.fixture(scope="session", params=registry.names("backbone"))
def case(request) -> Case:
    return Case(request.param, build(request.param), PROMPTS[request.param])


@pytest.fixture(scope="session")
def _sana():
    return build("sana")


@pytest.fixture
def sana(_sana):
    """A SANA of its own configuration; the weights are shared and must not be changed."""
    return copy.copy(_sana)
