"""Any picture file as part of a training batch: first frame, upright, RGB, scaled and cropped about its centre.

The one place where bytes become pictures. Every refusal is a `Refused` with a row of `flaws.REASONS`.
"""

from __future__ import annotations

import io
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from apex_cli.data.flaws import Flaw, Refused
from apex_cli.data.places import Place
from apex_cli.data.pools import Size
from apex_cli.errors import DataError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif"}
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF")
"""The decoders of `SUFFIXES`; whatever a file calls itself, no other one is given its bytes."""
PIXELS = 64 * 10**6
"""Most pixels of a picture; told by its header, before anything is decoded."""
ZEROS = 64
"""A JPEG that ends in so many zeros, without its end mark before them, was cut: its space was reserved, not filled."""

Source = Path | bytes | Place
Named = tuple[str, Source]
"""A picture with its name for people."""

Told = TypeVar("Told")


@dataclass(frozen=True)
class Picture:
    """`rgb` as it is trained on; `mode`, `format` and `animated` as it is stored."""

    rgb: Image.Image
    mode: str
    format: str
    animated: bool

    @property
    def size(self) -> Size:
        """Upright."""
        return self.rgb.size


def crops(sources: Sequence[Named], size: Size) -> Tensor:
    """B pictures -> [B, 3, H, W] in [-1, 1]; raises `DataError` with the name of one that cannot be read."""
    with ThreadPoolExecutor() as pool:
        images = np.stack(list(pool.map(lambda source: _crop(source[0], source[1], size), sources)))
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)  # no second copy of a large batch


def _crop(name: str, source: Source, size: Size) -> np.ndarray:
    """The centre of a picture, scaled until it just covers `size`: uint8 [H, W, 3]."""
    try:
        # The crop comes first, in fractions of a pixel, so that no long picture is ever enlarged as a whole.
        return np.asarray(ImageOps.fit(read_rgb(source), size, Image.Resampling.LANCZOS))
    except Refused as error:
        told = f"The picture '{name}' could not be read: {error.message}"
        raise DataError(told, "Replace it, or take it and its caption out of the set.") from error


def read_rgb(source: Source) -> Image.Image:
    """The first frame as RGB, turned as its EXIF says; what is transparent is composed on white.

    Raises `Refused`.
    """
    return read(source).rgb


def read(source: Source) -> Picture:
    """`read_rgb` with what the file says of itself; raises `Refused`."""
    return _asked(source, _decode)


def size_of(source: Source) -> Size:
    """Of a picture, upright, by its header alone; raises `Refused`."""
    return _asked(source, _measure)


def flaw_of(source: Source) -> Flaw | None:
    """Why a picture cannot be trained on, if so."""
    try:
        read(source)
    except Refused as error:
        return error.flaw
    return None


def _asked(source: Source, question: Callable[[BinaryIO], Told]) -> Told:
    try:
        with _file(source) as file:
            return question(file)
    except Refused:
        raise
    except Exception as error:  # what a decoder raises on damaged bytes, no library tells
        raise _refusal(error) from error


def _file(source: Source) -> BinaryIO:
    if isinstance(source, Path):
        found = source.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for somebody who writes
            raise Refused("picture-unreadable", "not a regular file")
        return _filled(source.open("rb"), found.st_size)
    content = source.read() if isinstance(source, Place) else source
    return _filled(io.BytesIO(content), len(content))


def _filled(file: BinaryIO, size: int) -> BinaryIO:
    if not size:
        file.close()
        raise Refused("picture-empty", "the file is empty")
    return file


def _decode(file: BinaryIO) -> Picture:
    with _opened(file) as stored:
        width, height = stored.size
        if width * height > PIXELS:
            raise Refused("picture-bomb", f"a decompression bomb of {width} x {height} pixels, over 64 megapixels")
        mode, format = stored.mode, stored.format or ""
        image = ImageOps.exif_transpose(stored)
        animated = format != "MPO" and getattr(stored, "is_animated", False)  # two lenses are no animation
    if format in ("JPEG", "MPO") and _ends_in_zeros(file):
        raise Refused("picture-truncated", "image file is truncated: it ends in zeros")
    return Picture(_rgb(image), mode, format, animated)


def _measure(file: BinaryIO) -> Size:
    with _opened(file) as stored:
        width, height = stored.size
        turned = "exif" in stored.info and stored.getexif().get(ExifTags.Base.Orientation, 1) >= 5
    return (height, width) if turned else (width, height)


def _opened(file: BinaryIO) -> Image.Image:
    Image.init()  # `open(formats=...)` knows only decoders that are loaded
    try:
        return Image.open(file, formats=FORMATS)
    except OSError as error:
        file.seek(0)
        head = file.read(12)
        promised = int.from_bytes(head[4:8], "little") + 8
        if head[:4] == b"RIFF" and head[8:] == b"WEBP" and promised > file.seek(0, io.SEEK_END):
            raise Refused("picture-truncated", "image file is truncated") from error  # the decoder says nothing of it
        raise


def _ends_in_zeros(file: BinaryIO) -> bool:
    """Whether a JPEG ends in zeros that do not follow its end mark."""
    file.seek(-min(ZEROS, file.seek(0, io.SEEK_END)), io.SEEK_END)
    if any(file.read()):
        return False
    file.seek(0)
    return not file.read().rstrip(b"\0").endswith(b"\xff\xd9")


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which `convert` would clip at 255
        image = image.point(lambda value: value * (1 / 257)).convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def _refusal(error: Exception) -> Refused:
    told = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
    if isinstance(error, FileNotFoundError):
        return Refused("picture-missing", "the file is not there")
    if isinstance(error, UnidentifiedImageError):
        return Refused("picture-format", f"not one of {', '.join(FORMATS)}")
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return Refused("picture-bomb", "a decompression bomb, over 64 megapixels")
    if "truncated" in told.lower():
        return Refused("picture-truncated", told)
    if isinstance(error, OSError) and error.errno:
        return Refused("picture-unreadable", error.strerror or told)
    return Refused("picture-corrupt", told)


# What Pillow only warns of has more pixels than `PIXELS`: refused anyway. Set once, since filters know no threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
