"""Any picture file as part of a training batch: first frame, upright, RGB, scaled and cropped about its centre."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from apex_cli.data.pools import Size
from apex_cli.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""The decoders of `SUFFIXES`; whatever a file calls itself, no other one is given its bytes."""


def crops(sources: Sequence[tuple[str, Path | bytes]], size: Size) -> Tensor:
    """(name, file or its bytes) of B pictures -> [B, 3, H, W] in [-1, 1].

    Raises `DataError` with the name of one that cannot be read.
    """
    Image.init()  # `open(formats=...)` knows only decoders that are loaded
    with warnings.catch_warnings(), ThreadPoolExecutor() as pool:
        # Twice that size is an error, which is told.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        images = np.stack(list(pool.map(lambda source: _crop(source[0], source[1], size), sources)))
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def _crop(name: str, source: Path | bytes, size: Size) -> np.ndarray:
    """The centre of a picture, scaled until it just covers `size`: uint8 [H, W, 3]."""
    try:
        # The crop comes first, in fractions of a pixel, so that no long picture is ever enlarged as a whole.
        return np.asarray(ImageOps.fit(read_rgb(source), size, Image.Resampling.LANCZOS))
    except Exception as error:  # what a decoder raises on damaged bytes, no library tells
        told = f"The picture '{name}' could not be read: {_reason(error)}."
        raise DataError(told, "Replace it, or take it and its caption out of the set.") from error


def read_rgb(source: Path | bytes) -> Image.Image:
    """The first frame as RGB, turned as its EXIF says; what is transparent is composed on white."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS) as opened:
        image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip at 255
        image = image.point(lambda value: value * (1 / 257)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not one of {', '.join(FORMATS)}"
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
