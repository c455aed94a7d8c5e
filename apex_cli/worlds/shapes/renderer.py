"""Draws flat shapes on a grey canvas: analytic masks at 4x supersampling, each only inside its shape's own box.

A mask takes (u, v), the coordinates relative to the shape's centre in units of its radius (v grows downwards), and says
what is inside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, cos, floor, pi, sin

import numpy as np

from apex_cli.worlds.shapes.vocabulary import BACKGROUND, COLORS

SUPERSAMPLING = 4
REACH = 1.05  # no mask extends further than this from its centre along an axis, in radii
Mask = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Shape:
    """One object; `x`, `y` (centre, y downwards) and `radius` are fractions of the canvas."""

    kind: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Scene:
    shapes: tuple[Shape, ...]


def render(scene: Scene, size: int = 64) -> np.ndarray:
    """The scene as uint8 [size, size, 3]. Shapes are drawn in order, later ones on top."""
    canvas = np.empty((size, size, 3), np.float32)
    canvas[:] = BACKGROUND
    for shape in scene.shapes:
        rows, columns, alpha = coverage(shape, size)
        patch = canvas[rows, columns]
        patch += alpha[..., None] * (np.asarray(COLORS[shape.color], np.float32) - patch)
    return (canvas + 0.5).astype(np.uint8)


def coverage(shape: Shape, size: int) -> tuple[slice, slice, np.ndarray]:
    """The pixel rows and columns a shape may touch, and the covered share [rows, columns] of each of those pixels."""
    rows, v = _axis(shape.y, shape.radius, size)
    columns, u = _axis(shape.x, shape.radius, size)
    inside = MASKS[shape.kind](u[None, :], v[:, None])
    blocks = inside.reshape(len(v) // SUPERSAMPLING, SUPERSAMPLING, len(u) // SUPERSAMPLING, SUPERSAMPLING)
    return rows, columns, blocks.mean(axis=(1, 3), dtype=np.float32)


def _axis(center: float, radius: float, size: int) -> tuple[slice, np.ndarray]:
    """Pixels along one axis, and the shape's own coordinate of every sample in them."""
    start = max(0, floor((center - REACH * radius) * size))
    stop = min(size, ceil((center + REACH * radius) * size))
    samples = (np.arange(start * SUPERSAMPLING, stop * SUPERSAMPLING, dtype=np.float32) + 0.5) / (SUPERSAMPLING * size)
    return slice(start, stop), (samples - np.float32(center)) / np.float32(radius)


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Five tips at distance 1, inner corners at 0.5: fold the plane onto one half tip, then test its single edge."""
    c, s = np.float32(cos(pi / 5)), np.float32(sin(pi / 5))
    x, y = np.abs(u), -v
    x, y = _fold(x, y, c, -s)
    x, y = _fold(x, y, -c, -s)
    return np.abs(x) * (1 - 0.5 * c) + (y - 1) * (0.5 * s) <= 0


def _fold(x: np.ndarray, y: np.ndarray, nx: np.floating, ny: np.floating) -> tuple[np.ndarray, np.ndarray]:
    """Mirror the points on the positive side of the line with normal (nx, ny)."""
    beyond = 2 * np.maximum(nx * x + ny * y, 0)
    return x - nx * beyond, y - ny * beyond


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    squared = u * u + v * v
    return (squared <= 1.0) & (squared >= 0.3)


def _cross(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    u, v = np.abs(u), np.abs(v)
    return ((u <= 0.32) & (v <= 0.98)) | ((v <= 0.32) & (u <= 0.98))


def _heart(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The algebraic heart (x^2 + y^2 - 1)^3 <= x^2 y^3, scaled and shifted to fill the unit box."""
    x, y = 1.16 * u, 0.12 - 1.16 * v
    x2, y2 = x * x, y * y
    return (x2 + y2 - 1) ** 3 <= x2 * y2 * y


MASKS: dict[str, Mask] = {
    "sphere": lambda u, v: u * u + v * v <= 0.95,
    "cube": lambda u, v: (np.abs(u) <= 0.78) & (np.abs(v) <= 0.78),
    "cone": lambda u, v: (v <= 0.72) & (np.abs(u) <= (v + 0.88) * 0.56),
    "star": _star,
    "diamond": lambda u, v: np.abs(u) / 0.72 + np.abs(v) <= 1.0,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
}
