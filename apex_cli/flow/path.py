"""The optimal-transport path and its conversions (t = 1 is noise, t = 0 is data).

    Eq 1    x_t = t z + (1 - t) x
    Eq 3    velocity = z - x
    Eq 10   endpoint f_x(v, x_t, t) = x_t - t v
    Eq 5    score = -(x_t + (1 - t) v) / t

Everywhere x, noise, x_t, velocity are `[B, ...]` of one shape and t is `[B]`. Source: arXiv 2604.12322.
"""

from __future__ import annotations

from torch import Tensor


def _like(t: Tensor, x: Tensor) -> Tensor:
    """t [B] as [B, 1, ...], ready to multiply x [B, ...]."""
    return t.reshape(-1, *[1] * (x.ndim - 1))


def interpolate(x: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t = t z + (1 - t) x (Eq 1)."""
    t = _like(t, x)
    return t * noise + (1 - t) * x


def velocity_target(x: Tensor, noise: Tensor) -> Tensor:
    """dx_t/dt = z - x (Eq 3)."""
    return noise - x


def endpoint(velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The clean sample at the t = 0 end of the straight line: x_t - t v (Eq 10)."""
    return x_t - _like(t, x_t) * velocity


def noise_endpoint(velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """The noise at the t = 1 end of the same line: x_t + (1 - t) v."""
    return x_t + (1 - _like(t, x_t)) * velocity


def score(velocity: Tensor, x_t: Tensor, t: Tensor) -> Tensor:
    """grad log p_t(x_t) = -(x_t + (1 - t) v) / t (Eq 5), defined for t > 0."""
    return -noise_endpoint(velocity, x_t, t) / _like(t, x_t)
