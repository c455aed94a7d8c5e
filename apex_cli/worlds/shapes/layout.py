"""Places shapes on the canvas at random so that they keep apart, stay inside, and satisfy the asked relations.

Things without a relation stand in rows, in reading order: who says "a star and a ring" goes from left to right. Related
ones are placed one after the other around the first, each straight beside, above or below its anchor; when one finds no
room, the layout starts again anew. Either group then moves as a whole, to about the middle of the canvas, as in a
photograph. So a layout is one choice and not one per thing: a single forward has to make all choices of a picture at
once, and a tiny model learns in an hour on a laptop what free places and sizes would stretch to a day. Centres lie on a
lattice of 1/8 of the canvas and there are two sizes. All lengths are fractions of the canvas.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from apex_cli.errors import DataError

RADIUS = 0.155
CROWDED = 0.115  # radius where four or more shapes, or a chain of relations, have to fit
LATTICE = 8  # centres are multiples of 1 / LATTICE
GAP = 0.06  # least distance between the circles around two shapes
MOST_COLUMNS = 3  # crowded shapes side by side
MARGIN = 0.01  # least distance to the edge of the canvas
AROUND = 1 / LATTICE  # greatest distance of a group's middle from that of the canvas along an axis, where it has room
ALONG = 0.20  # a relation holds with more than this along its axis
CANDIDATES, RESTARTS = 64, 2000
DIRECTIONS: dict[str, tuple[int, int]] = {"left of": (0, -1), "right of": (0, 1), "above": (1, -1), "below": (1, 1)}

Relations = Mapping[int, tuple[str, int]]
"""Object index -> (relation, index of an earlier object it is relative to): for no object, or all but the first."""


def place(count: int, relations: Relations, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres [count, 2] as (x, y) and radii [count] of a random layout; raises `DataError` where there is no room."""
    radii = np.full(count, CROWDED if count > 3 or len(relations) > 1 else RADIUS)
    for _ in range(RESTARTS):
        group = _related(radii, relations, rng) if relations else _rows(count)
        centers = None if group is None else _about_the_middle(group, radii, rng)
        if centers is not None:
            return centers, radii
    raise DataError(f"No room for {count} shapes in the asked relations.", "Ask for fewer shapes or a shorter chain.")


def _rows(count: int) -> np.ndarray | None:
    """Lattice points [count, 2] nearest to the middles of equal parts of the canvas, row by row; None for too many."""
    columns = math.ceil(math.sqrt(count))
    if columns > MOST_COLUMNS:
        return None
    rows = [min(columns, count - start) for start in range(0, count, columns)]
    middles = [
        ((column + 0.5) / size, (row + 0.5) / len(rows)) for row, size in enumerate(rows) for column in range(size)
    ]
    return np.round(np.array(middles) * LATTICE) / LATTICE


def _about_the_middle(group: np.ndarray, radii: np.ndarray, rng: np.random.Generator) -> np.ndarray | None:
    """The group moved to within `AROUND` of the canvas's middle, as far as it has room; None where it is too large."""
    edges = np.ceil((radii[:, None] + MARGIN) * LATTICE) / LATTICE
    low, high = (edges - group).max(0), (1 - edges - group).min(0)
    if (low > high).any():
        return None
    middle = 0.5 - (group.min(0) + group.max(0)) / 2
    return group + _between(middle - AROUND, middle + AROUND, rng, 1).clip(low, high)


def _related(radii: np.ndarray, relations: Relations, rng: np.random.Generator) -> np.ndarray | None:
    # A chain has up to three shapes in a row, so its steps are at most half the room.
    farthest = (1 - 2 * (CROWDED + MARGIN)) / min(len(relations), 2)
    centers = np.zeros((len(radii), 2))
    for index, (relation, anchor) in relations.items():
        candidates = centers[anchor] + _offsets(relation, farthest, rng)
        fits = _apart(candidates, radii[index], centers[:index], radii)
        if not fits.any():
            return None
        centers[index] = candidates[fits.argmax()]
    return centers


def _offsets(relation: str, farthest: float, rng: np.random.Generator) -> np.ndarray:
    """Random offsets [CANDIDATES, 2] at which `relation` holds, along its own axis."""
    axis, sign = DIRECTIONS[relation]
    low, high = np.zeros(2), np.zeros(2)
    low[axis], high[axis] = sorted((sign * ALONG, sign * farthest))
    return _between(low, high, rng, CANDIDATES)


def _between(low: np.ndarray, high: np.ndarray, rng: np.random.Generator, count: int) -> np.ndarray:
    """Random lattice points [count, 2] in the box from `low` to `high` (each side holds at least one)."""
    first, last = np.ceil(low * LATTICE - 1e-9), np.floor(high * LATTICE + 1e-9)
    return rng.integers(first.astype(int), last.astype(int) + 1, (count, 2)) / LATTICE


def _apart(candidates: np.ndarray, radius: float, centers: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """Which candidates keep the gap to the first `len(centers)` shapes: bool [CANDIDATES]."""
    squared = ((candidates[:, None] - centers) ** 2).sum(-1)
    return (squared >= (radius + radii[: len(centers)] + GAP) ** 2).all(1)
