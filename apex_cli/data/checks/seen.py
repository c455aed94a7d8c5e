"""One look at a sample: what its picture is, what it looks like, or why it cannot be read."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import fft

from apex_cli.data import pictures
from apex_cli.data.checks.samples import Sample
from apex_cli.data.flaws import Flaw, Refused
from apex_cli.data.places import Place
from apex_cli.data.store import file_hash

THUMBNAIL = 160
"""Pixels of the longer side of a thumbnail."""
CELLS = 4
"""A side of the grid of mean colours."""


@dataclass(frozen=True)
class Look:
    """`layout`: 63 bits, the signs of the low frequencies of the brightness about their median (a perceptual hash);
    `colours`: the mean colours of 4 x 4 cells, 48 bytes."""

    layout: int
    colours: bytes


@dataclass(frozen=True)
class Seen:
    """A picture that could be read. `size`: width and height as trained on; `sha256`: of its file."""

    size: tuple[int, int]
    mode: str
    format: str
    animated: bool
    sha256: str
    look: Look
    small: Image.Image


def see(sample: Sample) -> Seen | Flaw | None:
    """What the picture of a sample is; a flaw where it is refused, None where there is none."""
    if sample.picture is None:
        return None
    try:
        return _see(sample.picture)
    except Refused as error:
        return error.flaw


def _see(source: pictures.Source) -> Seen:
    content = source.read() if isinstance(source, Place) else source
    found = pictures.read(content)
    sha256 = file_hash(content) if isinstance(content, Path) else hashlib.sha256(content).hexdigest()
    small, size = found.rgb, found.size
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return Seen(size, found.mode, found.format, found.animated, sha256, look(small), small)


def look(image: Image.Image) -> Look:
    """The look of an RGB picture, about the same after scaling, compressing or brightening."""
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.BOX), np.float64)
    low = fft.dctn(grey, norm="ortho")[:8, :8].ravel()[1:].round(1)  # type: ignore[index]
    bits = "".join("1" if value else "0" for value in low > np.median(low))
    return Look(int(bits, 2), image.resize((CELLS, CELLS), Image.Resampling.BOX).tobytes())


def thumbnail(image: Image.Image) -> bytes:
    """A small WebP of a picture that is small already."""
    sink = io.BytesIO()
    image.save(sink, "webp", quality=80)
    return sink.getvalue()
