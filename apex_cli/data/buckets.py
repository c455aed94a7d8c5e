"""Aspect-ratio buckets: picture sizes of equal area, so that a batch of any of them costs the same.

No bucket has more pixels than the square, and all sides are multiples of what the backbone asks for. At 1024 pixels the
long sides are 1024, 1088, ... 2048 and the short ones 1024, 960, ... 512: the usual table, from 1:4 to 4:1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from apex_cli.data.flaws import Flaw, Refused
from apex_cli.data.pictures import Source, size_of
from apex_cli.data.pools import Size

STEPS = 16
"""The sides of buckets differ by this part of the square's, or by more where the backbone asks for it."""
SQUARE: Size = (1, 1)


def table(resolution: int, multiple: int) -> list[Size]:
    """All buckets for pictures of `resolution` ** 2 pixels, from the tallest to the widest."""
    step = -(-max(resolution // STEPS, multiple) // multiple) * multiple
    longs = range(resolution + step, 2 * resolution + 1, step)
    wide = [(long, short) for long in longs if (short := resolution**2 // long // step * step)]
    return sorted({(resolution, resolution), *wide, *((short, long) for long, short in wide)}, key=_aspect)


def nearest(buckets: Sequence[Size], sizes: np.ndarray) -> np.ndarray:
    """Number of the bucket whose shape is nearest to each of `sizes` [N, 2] (width, height), by the ratio of ratios."""
    logs = np.log([_aspect(size) for size in buckets])
    return np.searchsorted((logs[:-1] + logs[1:]) / 2, np.log(sizes[:, 0] / sizes[:, 1]))


def measure(source: Source | Flaw) -> Size:
    """Of a picture, by its header; a square where there is none to read, since the picture is left out anyway."""
    try:
        return SQUARE if isinstance(source, Flaw) else size_of(source)
    except Refused:
        return SQUARE


def _aspect(size: Size) -> float:
    return size[0] / size[1]
