"""Weights over time, in one convention: w(t) multiplies the squared error **of the velocity**.

By Prop 3 and 4 an endpoint error is t^2 times a velocity error, so an endpoint-space weight u stands here as t^2 u:

    uniform    1          plain flow matching (Eq 4)
    endpoint   t^2        plain squared error of the endpoint
    paper      t (1 - t)  the paper's 1 / omega(t) in endpoint space, omega = t / (1 - t) (Eq 20, 21, 24, 47):
                          t^2 / omega. Zero at t = 1, where one-step sampling starts.

All are finite on the whole of [0, 1], so nothing is clamped.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Weighting = Literal["uniform", "endpoint", "paper"]


def weight(name: Weighting, t: Tensor) -> Tensor:
    """w(t) [B] of the named weighting."""
    match name:
        case "uniform":
            return torch.ones_like(t)
        case "endpoint":
            return t.square()
        case "paper":
            return t * (1 - t)


def squared_error(a: Tensor, b: Tensor) -> Tensor:
    """||a - b||^2 per element: the mean over everything but the batch, [B]."""
    return (a - b).square().flatten(1).mean(1)
