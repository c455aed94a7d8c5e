"""Networks the objectives are tested on: a real tiny SANA in float64, and a toy whose branches are told apart."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Batch, Draws

SHAPE = (4, 4, 4, 4)
TOKENS, DIM = 3, 8


@dataclass
class Student:
    """F(x_t, t, c) of a SANA network, counting what it is asked: (rows, with gradient) of each forward."""

    network: nn.Module
    calls: list[tuple[int, bool]] = field(default_factory=list)

    def __call__(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        self.calls.append((len(x_t), torch.is_grad_enabled()))
        return self.network(
            hidden_states=x_t,
            encoder_hidden_states=cond.tokens,
            encoder_attention_mask=cond.mask.to(x_t.dtype),
            timestep=1000 * t * self.network.config.timestep_scale,
            return_dict=False,
        )[0]

    def gradients(self, loss: Tensor) -> Tensor:
        """The gradient of `loss` on all weights, as one vector."""
        parameters = list(self.network.parameters())
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        return torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, found, strict=True)]
        )


def make_batch(rows: int = SHAPE[0]) -> Batch:
    gen = torch.Generator().manual_seed(1)
    x = torch.randn(rows, *SHAPE[1:], generator=gen, dtype=torch.float64)
    mask = torch.arange(TOKENS) < 1 + torch.arange(rows)[:, None] % TOKENS
    tokens = torch.randn(2, rows, TOKENS, DIM, generator=gen, dtype=torch.float64)
    return Batch(x, Cond(tokens[0], mask), Cond(tokens[1], mask))


def make_draws(objective, rows: int = SHAPE[0], seed: int = 2) -> Draws:
    draws = objective.draw((rows, *SHAPE[1:]), torch.Generator().manual_seed(seed))
    return {name: v.double() if v.is_floating_point() else v for name, v in draws.items()}


def rows_of(batch: Batch, draws: Draws, rows: slice) -> tuple[Batch, Draws]:
    """One micro-batch, as the training loop cuts it."""
    part = replace(batch, x=batch.x[rows], cond=batch.cond.select(rows), uncond=batch.uncond.select(rows))
    return part, {name: v[rows] for name, v in draws.items()}


class Toy(nn.Module):
    """velocity = gain x_t + t; the gain is `real` under c (tokens of 1), else `fake` times the token."""

    def __init__(self):
        super().__init__()
        self.real = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))
        self.fake = nn.Parameter(torch.tensor(0.4, dtype=torch.float64))

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        token = cond.tokens[:, 0, 0]
        gain = torch.where(token == 1, self.real, self.fake * token)
        return gain[:, None, None, None] * x_t + t[:, None, None, None]
