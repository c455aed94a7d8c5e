"""The backbone of the 2-D world: a residual MLP whose latents are the points themselves, [B, 2, 1, 1].

A prompt "condition k" is one token, the k-th unit vector; the empty prompt is the zero vector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from apex_cli.config import Section
from apex_cli.errors import CheckpointError
from apex_cli.flow.condition import Cond
from apex_cli.worlds.modes import CONDITIONS, condition_of

FREQUENCIES = 16


class MlpConfig(Section):
    path: str | None = None
    """A folder written by `save`: its weights, and its `width` and `depth` instead of the ones here."""
    width: PositiveInt = 128
    depth: PositiveInt = 3
    seed: int = 0
    """Of the initial weights, without `path`."""


class Block(nn.Module):
    """h + down(silu(up(norm(h))))."""

    def __init__(self, width: int):
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.down(nn.functional.silu(self.up(self.norm(h))))


def time_features(t: Tensor) -> Tensor:
    """cos and sin of t [B] at geometric frequencies from pi / 2 to 32 pi, [B, 2 * FREQUENCIES]."""
    frequency = math.pi / 2 * 2 ** torch.linspace(0, 6, FREQUENCIES, dtype=t.dtype, device=t.device)
    phase = t[:, None] * frequency
    return torch.cat([phase.cos(), phase.sin()], dim=1)


class MlpNetwork(nn.Module):
    """(point [B, 2], t [B], condition [B, D]) -> velocity [B, 2]; starts at zero velocity."""

    def __init__(self, width: int, depth: int, cond_dim: int):
        super().__init__()
        self.enter = nn.Linear(2 + 2 * FREQUENCIES + cond_dim, width)
        self.blocks = nn.Sequential(*[Block(width) for _ in range(depth)])
        self.leave = nn.Linear(width, 2)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, point: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        return self.leave(self.blocks(self.enter(torch.cat([point, time_features(t), condition], dim=1))))


class Mlp:
    """`Backbone` of the 2-D world; there is no autoencoder, so images are latents."""

    Config = MlpConfig
    lora_targets = ("enter", "up", "down", "leave")
    latent_shape = (2, 1, 1)
    cond_dim = CONDITIONS

    def __init__(self, config: MlpConfig):
        stored = {} if config.path is None else _read_json(Path(config.path) / "config.json")
        self.config = config.model_copy(update=stored)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.network = MlpNetwork(self.config.width, self.config.depth, self.cond_dim)
        if config.path is not None:
            from safetensors.torch import load_file

            self.network.load_state_dict(load_file(Path(config.path) / "model.safetensors"))

    def encode_prompts(self, prompts: Sequence[str]) -> Cond:
        table = torch.cat([torch.eye(CONDITIONS), torch.zeros(1, CONDITIONS)])
        rows = [condition_of(prompt) if prompt else CONDITIONS for prompt in prompts]
        return Cond(table[rows][:, None], torch.ones(len(rows), 1, dtype=torch.bool))

    def encode_images(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def velocity(self, x_t: Tensor, t: Tensor, cond: Cond, r: Tensor | None = None) -> Tensor:
        assert r is None, "this network has one time"
        return self.network(x_t.flatten(1), t, cond.tokens.flatten(1)).reshape(x_t.shape)

    def save(self, folder: Path) -> None:
        """`model.safetensors` and `config.json`."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.network.state_dict(), folder / "model.safetensors")
        shape = {"width": self.config.width, "depth": self.config.depth}
        (folder / "config.json").write_text(json.dumps(shape, indent=2) + "\n")


def _read_json(path: Path) -> dict[str, int]:
    if not path.is_file():
        raise CheckpointError(f"'{path.parent}' is not a saved MLP.", "Give the folder that a run wrote as model/.")
    return json.loads(path.read_text())
