"""AdaLN modulation as a table: what depends on the time alone is computed once for every time that will be asked.

In Qwen-Image the 120 modulation layers are 6.8 of 20.4 billion parameters; for one time they make 120 vectors of
18,432 numbers, 4.4 MB in bf16. In SANA it is the time embedding with its one projection, and
what each block adds to it. FLUX and Stable Diffusion 3 modulate by the pooled text as well, so that there is nothing to
fold.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from apex_cli.errors import UsageError

TICKS = 2**22
"""Parts of the unit of time that keys count: integers, which no cast of the module rounds."""
NEAR = 4
"""Keys that far apart are one time (1e-6): a time on its way through float32 products."""


class TimeRow(nn.Module):
    """Stands where the time was embedded and answers the row of the tables that belongs to it, [B].

    `scale`: the network's argument for t = 1. A time that is not in the tables raises `UsageError` where its value lies
    on the host; on a device, where looking would wait for all work in flight, its row holds NaN.
    """

    keys: Tensor

    def __init__(self, times: Sequence[float], scale: float = 1.0):
        super().__init__()
        self.times, self.scale = tuple(times), scale
        self.register_buffer("keys", torch.tensor([round(t * TICKS) for t in times]))

    def forward(self, time: Tensor, *_: Any) -> Tensor:
        distance = ((time.float() / self.scale * TICKS).round().long()[:, None] - self.keys).abs()
        known = distance.amin(1) <= NEAR
        if time.device.type == "cpu" and not known.all():
            refuse([float(t) for t in time[~known] / self.scale], self.times)
        return torch.where(known, distance.argmin(1), len(self.times))


def refuse(asked: Sequence[float], times: Sequence[float]) -> None:
    """Raise `UsageError`: the folded model was asked at other times."""
    told = ", ".join(f"{t:g}" for t in dict.fromkeys(asked))
    raise UsageError(
        f"This model is folded at the noise levels {', '.join(f'{t:g}' for t in times)}; asked: {told}.",
        "Use --plain, an --nfe it was folded for, or fold it again.",
    )


class Rows(nn.Module):
    """Row i of a table [times, D], and NaN behind the last."""

    rows: Tensor

    def __init__(self, rows: Tensor):
        super().__init__()
        self.register_buffer("rows", torch.cat([rows, torch.full_like(rows[:1], torch.nan)]))

    def forward(self, row: Tensor) -> Tensor:
        return self.rows[row]


class FoldedNorm(nn.Module):
    """diffusers' `AdaLayerNormContinuous` with its projection in a table."""

    def __init__(self, norm: nn.Module, rows: Tensor):
        super().__init__()
        self.norm, self.table = norm, Rows(rows)

    def forward(self, x: Tensor, row: Tensor) -> Tensor:
        scale, shift = self.table(row)[:, None].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class TimeRows(nn.Module):
    """In the place of SANA's `AdaLayerNormSingle`: the row for the tables of the blocks, and the embedding [B, D] from
    one of its own."""

    def __init__(self, row: TimeRow, embedding: Tensor):
        super().__init__()
        self.row, self.embedding = row, Rows(embedding)

    def forward(self, timestep: Tensor, **_: Any) -> tuple[Tensor, Tensor]:
        row = self.row(timestep)
        return row, self.embedding(row)


class ModulatedBlock(nn.Module):
    """diffusers' `SanaTransformerBlock` with its modulation in a table [times, 6, D], scales with their 1 added; each
    scale with its shift, and each gate with its sum, is one pass over the tokens."""

    def __init__(self, block: Any, modulation: Tensor):
        super().__init__()
        self.norm1, self.attn1, self.norm2, self.attn2 = block.norm1, block.attn1, block.norm2, block.attn2
        self.ff = block.ff
        one = torch.tensor([0, 1, 0, 0, 1, 0], dtype=modulation.dtype, device=modulation.device)
        self.table = Rows(modulation + one[:, None])

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: None,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor | None,
        timestep: Tensor,
        height: int,
        width: int,
    ) -> Tensor:
        x, (shift, scale, gate, mix_shift, mix_scale, mix_gate) = hidden_states, self.table(timestep).chunk(6, dim=1)
        x = torch.addcmul(x, gate, self.attn1(torch.addcmul(shift, self.norm1(x), scale)))
        x = x + self.attn2(x, encoder_hidden_states=encoder_hidden_states, attention_mask=encoder_attention_mask)
        mixed = torch.addcmul(mix_shift, self.norm2(x), mix_scale).unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return torch.addcmul(x, mix_gate, self.ff(mixed).flatten(2).mT)


@torch.no_grad()
def fold_qwen(network: Any, times: Sequence[float]) -> None:
    """Fold a `QwenImageTransformer2DModel` in place."""
    like = network.proj_out.weight
    grid = torch.tensor(times, dtype=torch.float32, device=like.device)
    embedded = network.time_text_embed(grid, like)
    for block in network.transformer_blocks:
        block.img_mod, block.txt_mod = Rows(block.img_mod(embedded)), Rows(block.txt_mod(embedded))
    last = network.norm_out
    network.norm_out = FoldedNorm(last.norm, last.linear(last.silu(embedded)))
    network.time_text_embed = TimeRow(times).to(like.device)


@torch.no_grad()
def fold_sana(network: Any, times: Sequence[float]) -> None:
    """Fold a `SanaTransformer2DModel` in place."""
    like, scale = network.proj_out.weight, 1000.0 * network.config.timestep_scale
    grid = torch.tensor(times, dtype=torch.float32, device=like.device) * scale
    modulation, embedding = network.time_embed(grid, hidden_dtype=like.dtype)
    for i, block in enumerate(network.transformer_blocks):
        own = block.scale_shift_table + modulation.unflatten(1, (6, -1))
        network.transformer_blocks[i] = ModulatedBlock(block, own)
    network.time_embed = TimeRows(TimeRow(times, scale).to(like.device), embedding)
