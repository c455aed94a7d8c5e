"""The backbone of the 2-D world: a small residual MLP whose latents are the points themselves, [B, 2, 1, 1].

A prompt "condition k" is one token, the k-th unit vector; the empty prompt is the zero vector.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn.functional import silu

from apex_cli.config import Section
from apex_cli.errors import CheckpointError
from apex_cli.flow.condition import Cond
from apex_cli.worlds.modes import CONDITIONS, condition_of

TIME_FREQUENCIES, POINT_FREQUENCIES = 8, 4


class MlpConfig(Section):
    path: str | None = None
    """A folder written by `save`: its weights, and its `width` and `depth` instead of the ones here."""
    width: PositiveInt = 128
    depth: PositiveInt = 3
    seed: int = 0
    """Of the initial weights, without `path`."""


def waves(x: Tensor, count: int) -> Tensor:
    """x [B, n] beside its cos and sin at `count` frequencies from pi / 4 to 2 pi: [B, n (1 + 2 count)]."""
    frequencies = math.pi / 4 * torch.logspace(0, 3, count, base=2, dtype=x.dtype, device=x.device)
    phase = (x[..., None] * frequencies).flatten(1)
    return torch.cat([x, phase.cos(), phase.sin()], dim=1)


class Block(nn.Module):
    """h + down(silu(up(norm(h))) (1 + gate(context)))."""

    def __init__(self, width: int, context: int):
        super().__init__()
        self.norm, self.gate = nn.LayerNorm(width), nn.Linear(context, 2 * width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        return h + self.down(silu(self.up(self.norm(h))) * (1 + self.gate(context)))


class MlpNetwork(nn.Module):
    """(point [B, 2], t [B], condition [B, D]) -> velocity [B, 2]; starts at zero velocity."""

    def __init__(self, width: int, depth: int, cond_dim: int):
        super().__init__()
        self.config = {"width": width, "depth": depth, "cond_dim": cond_dim}
        context = 1 + 2 * TIME_FREQUENCIES + cond_dim
        self.enter = nn.Linear(2 * (1 + 2 * POINT_FREQUENCIES) + context, width)
        self.blocks = nn.ModuleList(Block(width, context) for _ in range(depth))
        self.leave = nn.Linear(width, 2)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, point: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        context = torch.cat([waves(t[:, None], TIME_FREQUENCIES), condition], dim=1)
        h = self.enter(torch.cat([waves(point, POINT_FREQUENCIES), context], dim=1))
        for block in self.blocks:
            h = block(h, context)
        return self.leave(h)

    def save_pretrained(self, folder: Path) -> None:
        """`model.safetensors` and `config.json`."""
        from safetensors.torch import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        save_file(self.state_dict(), Path(folder) / "model.safetensors")
        (Path(folder) / "config.json").write_text(json.dumps(self.config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: Path | str, use_safetensors: bool = True) -> Self:
        """Inverse of `save_pretrained`; raises `CheckpointError` where there is none."""
        from safetensors.torch import load_file

        assert use_safetensors, "there is no other format"
        config = Path(folder) / "config.json"
        if not config.is_file():
            raise CheckpointError(
                f"'{folder}' holds no saved MLP.", "Give the model/ folder of a run on the 2-D world."
            )
        network = cls(**json.loads(config.read_text()))
        network.load_state_dict(load_file(Path(folder) / "model.safetensors"))
        return network


class Mlp:
    """`Backbone` of the 2-D world; there is no autoencoder, so images are latents."""

    Config = MlpConfig
    lora_targets = ()  # no pipeline that could load adapters
    latent_shape = (2, 1, 1)
    patch = 1
    cond_dim = CONDITIONS
    pooled_dim = 0
    scale_invariant_text = masks_text = False
    times: tuple[float, ...] | None = None
    unused: tuple[str, ...] = ()

    def __init__(self, config: MlpConfig):
        self.config = config
        if config.path:
            self.network = MlpNetwork.from_pretrained(Path(config.path) / "transformer")
        else:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.seed)
                self.network = MlpNetwork(config.width, config.depth, self.cond_dim)
        self.network.requires_grad_(False).eval()

    def with_config(self, config: MlpConfig) -> Self:
        """The same weights under another configuration, which changes nothing here but the record."""
        self.config = config
        return self

    def encode_prompts(self, prompts: Sequence[str]) -> Cond:
        table = torch.cat([torch.eye(CONDITIONS), torch.zeros(1, CONDITIONS)])
        rows = [condition_of(prompt) if prompt else CONDITIONS for prompt in prompts]
        tokens = table[rows][:, None].to(next(self.network.parameters()).device)
        return Cond(tokens, torch.ones(len(rows), 1, dtype=torch.bool, device=tokens.device))

    def to(self, device: torch.device) -> None:
        self.network.to(device)

    def encode_images(self, pixels: Tensor) -> Tensor:
        return pixels

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """F(x_t, t, c), all [B, 2, 1, 1]."""
        return self.network(x_t.flatten(1), t, cond.tokens.flatten(1)).reshape(x_t.shape)

    def save(self, folder: Path) -> None:
        """`transformer/` as in a diffusers pipeline folder."""
        self.network.save_pretrained(Path(folder) / "transformer")
