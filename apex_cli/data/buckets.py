"""Aspect-ratio buckets: picture sizes of equal area, so that a batch of any of them costs the same.

No bucket has more pixels than the square, and all sides are multiples of what the backbone asks for. At 1024 pixels the
long sides are 1024, 1088, ... 2048 and the short ones 1024, 960, ... 512: the usual table, from 1:4 to 4:1.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from apex_cli.data.pictures import FORMATS, crops
from apex_cli.data.pools import Size

STEPS = 16
"""The sides of buckets differ by this part of the square's, or by more where the backbone asks for it."""


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


def sizes(sources: Sequence[tuple[str, Path | bytes]]) -> np.ndarray:
    """(width, height) of pictures, int64 [N, 2], from their headers; raises `DataError` for one that cannot be read."""
    Image.init()
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return np.array(list(pool.map(_size, sources)))


def _size(source: tuple[str, Path | bytes]) -> Size:
    try:
        with Image.open(io.BytesIO(source[1]) if isinstance(source[1], bytes) else source[1], formats=FORMATS) as image:
            width, height = image.size
            turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    except Exception:
        crops([source], (1, 1))  # says what is wrong with it
        raise
    return (height, width) if turned else (width, height)


def _aspect(size: Size) -> float:
    return size[0] / size[1]
