"""How Pillow's decoders are used on files of anyone: upright as EXIF says, and what they raise under one name."""

from __future__ import annotations

import struct

from PIL import Image, ImageOps

BROKEN = (OSError, SyntaxError, ValueError, struct.error, Image.DecompressionBombError)
"""What comes of data that are broken or too large."""
ORIENTED = (b"eXIf", b"Raw profile type exif", b"com.adobe.xmp")
"""One of these is in every PNG that may say how it is to be turned."""


def decode(image: Image.Image) -> None:
    """Read the pixels of an opened picture and turn it upright; raises one of `BROKEN`."""
    ImageOps.exif_transpose(image, in_place=True)
