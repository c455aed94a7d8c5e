"""Finds shapes in an image without any learning, in four steps.

1. The background is the median of the border; what differs from it in Lab, after smooth enlargement, falls into
   connected components.
2. A component's colour is the median of its core; a component whose core has two colours is split.
3. Its matte is the projection of each pixel p on the axis from background b to core colour c,
   (p - b).(c - b) / |c - b|^2 in [0, 1].
4. Its kind is the template with the best soft IoU, sum(min) / sum(max), among templates of its own size at several
   degrees of blur.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import cast

import numpy as np
from PIL import Image
from scipy import ndimage

from apex_cli.worlds.shapes.renderer import Shape, coverage
from apex_cli.worlds.shapes.vocabulary import COLORS, SHAPES

UNKNOWN = "unknown"
WORKING_SIZE = 256  # images are enlarged by a whole factor to about this size
FOREGROUND = 13.0  # least Lab distance from the background ...
NOISE_FACTOR = 2.5  # ... and the same in units of the background's own noise
SMALLEST_AREA = 0.006  # of the canvas; smaller specks are no objects
CORE = 0.6  # the core of a component: the points at least this deep, relative to the deepest
SPLIT_SHARE = 0.3  # of the core that a second colour must hold
COLOR_LIMIT = 28.0  # Lab distance beyond which a colour has no name
KIND_LIMIT = 0.72  # soft IoU below which a kind has no name
BLURS = (0.0, 0.5, 1.0, 1.6)  # of the templates, in image pixels
GRID = 32  # samples per side of the window in which mattes are compared
WINDOW = 1.25  # side of that window, relative to the longer side of the box


@dataclass(frozen=True)
class Detection:
    """One object: `box` is (x0, y0, x1, y1) in pixels, `confidence` the soft IoU of its best template.

    `color_distance` is the Lab distance to the nearest colour word; `kind` and `color` may be "unknown".
    """

    kind: str
    color: str
    box: tuple[float, float, float, float]
    confidence: float
    color_distance: float


@dataclass(frozen=True)
class _Part:
    """A one-coloured region inside a window of the enlarged image."""

    mask: np.ndarray  # bool [h, w]
    others: np.ndarray  # bool [h, w], the foreground that is not this part
    core: np.ndarray  # bool [h, w]
    window: tuple[slice, slice]


def detect(image: np.ndarray) -> list[Detection]:
    """All objects in a uint8 [H, W, 3] image, the most confident first."""
    factor = max(1, round(WORKING_SIZE / max(image.shape[:2])))
    small_lab = to_lab(image)
    rgb, lab = _resize(image, factor), _resize_channels(small_lab, factor)
    background, background_lab = _border_median(image), _border_median(small_lab)
    noise = np.median(np.linalg.norm(_border(small_lab) - background_lab, axis=-1))
    foreground = np.linalg.norm(lab - background_lab, axis=-1) > max(FOREGROUND, NOISE_FACTOR * noise)
    found = []
    for part in _parts(foreground, lab):
        color, distance = name_color(np.median(lab[part.window][part.core], axis=0))
        matte = _matte(rgb[part.window], part, background)
        found.append(_classify(matte, part, factor, color, distance))
    return sorted(found, key=lambda detection: -detection.confidence)


def to_lab(rgb: np.ndarray) -> np.ndarray:
    """sRGB in 0..255, [..., 3], to CIE Lab under D65, float32 [..., 3]."""
    c = np.asarray(rgb, np.float32) / 255
    c = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = c @ _XYZ
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    x, y, z = f[..., 0], f[..., 1], f[..., 2]
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], -1).astype(np.float32)


_XYZ = np.array(
    [[0.4124564, 0.2126729, 0.0193339], [0.3575761, 0.7151522, 0.1191920], [0.1804375, 0.0721750, 0.9503041]],
    np.float32,
) / np.array([0.95047, 1.0, 1.08883], np.float32)
_NAMES: tuple[str, ...] = tuple(COLORS)
_PALETTE: np.ndarray = to_lab(np.array(list(COLORS.values())))


def name_color(lab: np.ndarray) -> tuple[str, float]:
    """The nearest colour word of a Lab triple, "unknown" beyond `COLOR_LIMIT`, and the Lab distance to it."""
    distances = np.linalg.norm(_PALETTE - lab, axis=-1)
    nearest = int(distances.argmin())
    distance = float(distances[nearest])
    return (_NAMES[nearest] if distance <= COLOR_LIMIT else UNKNOWN), distance


def _parts(foreground: np.ndarray, lab: np.ndarray) -> Iterator[_Part]:
    """Connected components of the foreground, split where two colours meet; specks are left out."""
    labels, _ = cast(tuple[np.ndarray, int], ndimage.label(foreground))
    least = SMALLEST_AREA * foreground.size
    for label, box in enumerate(ndimage.find_objects(labels), start=1):
        window = _widen(box, foreground.shape)
        mask = labels[window] == label
        if mask.sum() < least:
            continue
        for piece, core in _split(mask, lab[window]):
            if piece.sum() >= least and core.any():
                yield _Part(piece, foreground[window] & ~piece, core, window)


def _widen(box: tuple[slice, slice], shape: tuple[int, ...]) -> tuple[slice, slice]:
    """A box with a quarter of its longer side added all around, cut at the edges of the image."""
    extra = max(side.stop - side.start for side in box) // 4
    rows, columns = (slice(max(0, s.start - extra), min(n, s.stop + extra)) for s, n in zip(box, shape, strict=True))
    return rows, columns


def _split(mask: np.ndarray, lab: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """The (mask, core) of each colour of a component: one, or two when a second colour holds enough of the core."""
    core = _core(mask)
    points = lab[core]
    nearest = np.linalg.norm(points[:, None] - _PALETTE, axis=-1).argmin(-1)
    counts = np.bincount(nearest, minlength=len(_NAMES))
    second, first = np.argsort(counts)[-2:]
    if counts[second] <= SPLIT_SHARE * len(points):
        return [(mask, core)]
    centers = [np.median(points[nearest == index], axis=0) for index in (first, second)]
    to_first, to_second = (np.linalg.norm(lab - center, axis=-1) for center in centers)
    sides = (mask & (to_first <= to_second), mask & (to_first > to_second))
    return [(side, _core(side)) for side in sides]


def _core(mask: np.ndarray) -> np.ndarray:
    """The deepest points of a mask, measured on every second pixel: exact enough and four times faster."""
    depth = cast(np.ndarray, ndimage.distance_transform_edt(np.pad(mask[::2, ::2], 1)))[1:-1, 1:-1]
    core = np.zeros_like(mask)
    core[::2, ::2] = depth >= max(CORE * depth.max(), 1e-6)
    return core


def _matte(rgb: np.ndarray, part: _Part, background: np.ndarray) -> np.ndarray:
    """Soft membership float32 [h, w] of each pixel of the window, zero on other objects."""
    rgb = rgb.astype(np.float32)
    axis = np.median(rgb[part.core], axis=0) - background
    matte = (rgb - background) @ (axis / max(float(axis @ axis), 1e-6))
    return np.where(part.others, 0, np.clip(matte, 0, 1))


def _classify(matte: np.ndarray, part: _Part, factor: int, color: str, distance: float) -> Detection:
    solid = part.mask & (matte > 0.5)
    rows, columns = _box(solid if solid.any() else part.mask)
    side = max(rows.stop - rows.start, columns.stop - columns.start)
    sample = _resample(matte, rows, columns).ravel()
    templates = _templates(round(side / factor), factor)
    scores = np.minimum(templates, sample).sum(-1) / np.maximum(templates, sample).sum(-1)
    best = int(scores.argmax())
    kind = SHAPES[best // len(BLURS)] if scores[best] >= KIND_LIMIT else UNKNOWN
    top, left = (side.start for side in part.window)
    corners = (columns.start + left, rows.start + top, columns.stop + left, rows.stop + top)
    x0, y0, x1, y1 = (corner / factor for corner in corners)
    return Detection(kind, color, (x0, y0, x1, y1), float(scores[best]), distance)


@cache
def _templates(side: int, factor: int) -> np.ndarray:
    """Mattes [kinds * blurs, GRID * GRID] of the shapes at `side` image pixels, made just as a component's matte is."""
    rows = []
    for kind in SHAPES:
        canvas = 2 * side + 8
        cover = np.zeros((canvas, canvas), np.float32)
        shape = Shape(kind, "black", 0.5 + 0.25 / canvas, 0.5 + 0.25 / canvas, side / canvas / _extent(kind))
        vertical, horizontal, alpha = coverage(shape, canvas)
        cover[vertical, horizontal] = alpha
        for blur in BLURS:
            matte = np.clip(_resize(ndimage.gaussian_filter(cover, blur), factor), 0, 1)
            rows.append(_resample(matte, *_box(matte > min(0.5, matte.max() / 2))).ravel())
    return np.stack(rows)


@cache
def _extent(kind: str) -> float:
    """The longer side of a kind's box in radii."""
    rows, columns = _box(coverage(Shape(kind, "black", 0.5, 0.5, 0.4), 100)[2] > 0.5)
    return max(rows.stop - rows.start, columns.stop - columns.start) / 40


def _box(mask: np.ndarray) -> tuple[slice, slice]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def _resample(matte: np.ndarray, rows: slice, columns: slice) -> np.ndarray:
    """The matte on a GRID x GRID lattice over a square window around its box, so that proportions are kept."""
    side = WINDOW * max(rows.stop - rows.start, columns.stop - columns.start)
    steps = ((np.arange(GRID) + 0.5) / GRID - 0.5) * side
    y, x = ((s.start + s.stop - 1) / 2 + steps for s in (rows, columns))
    return ndimage.map_coordinates(matte, np.meshgrid(y, x, indexing="ij"), order=1, output=np.float32)


def _resize_channels(channels: np.ndarray, factor: int) -> np.ndarray:
    """Bicubic enlargement of float32 [h, w, c], channel by channel."""
    return np.stack([_resize(channels[..., k], factor) for k in range(channels.shape[-1])], -1)


def _resize(plane: np.ndarray, factor: int) -> np.ndarray:
    """Bicubic enlargement of float32 [h, w] or uint8 [h, w, 3] by a whole factor."""
    size = (plane.shape[1] * factor, plane.shape[0] * factor)
    return np.asarray(Image.fromarray(np.ascontiguousarray(plane)).resize(size, Image.Resampling.BICUBIC))


def _border(image: np.ndarray) -> np.ndarray:
    return np.concatenate([image[0], image[-1], image[1:-1, 0], image[1:-1, -1]])


def _border_median(image: np.ndarray) -> np.ndarray:
    return np.median(_border(image), axis=0)
