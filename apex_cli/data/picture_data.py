"""What all readers of picture files share: the shape a picture is given, and which pictures may be in one batch."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from apex_cli.data import buckets
from apex_cli.data.ahead import ahead
from apex_cli.data.flaws import Flaw, Refused
from apex_cli.data.pictures import Named, Source, crops
from apex_cli.data.places import Place
from apex_cli.data.pools import Pool, Size
from apex_cli.data.screen import ScreenConfig
from apex_cli.data.store import file_hash
from apex_cli.errors import DataError

IMAGES = ("image", "jpg", "jpeg", "png", "webp")
CAPTIONS = ("text", "prompt", "caption", "txt")
"""Columns of a table where the recipe names none, the first one that it has."""


class PictureConfig(ScreenConfig):
    crop: Literal["centre", "buckets"] = "centre"
    """centre: the square in the middle. buckets: nearly the picture's own shape, in sizes of equal area (see
    data/buckets.py); the pictures of a batch are of one size."""


class PictureData(ABC):
    """`prompts(rows)` and `pixels(rows)` of pictures that come in any size."""

    def __init__(self, config: Any, resolution: int):
        """`config`: a `PictureConfig` with `path`."""
        self.config, self._crop, self.resolution, self.multiple = config, config.crop, resolution, 1

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def captions(self, rows: Sequence[int]) -> list[str | Flaw]: ...

    def prompts(self, rows: Sequence[int]) -> list[str]:
        """Captions; empty where there is none, which a run leaves out (`probe`)."""
        return ["" if isinstance(caption, Flaw) else caption for caption in self.captions(rows)]

    @abstractmethod
    def name(self, row: int) -> str: ...

    @abstractmethod
    def pictures(self, rows: Sequence[int]) -> list[Named]: ...

    def probe(self, row: int) -> Source | Flaw:
        """Where the picture of a row is; or why the row cannot be trained on, where that is known without a look."""
        (caption,) = self.captions([row])
        return caption if isinstance(caption, Flaw) else self.picture(row)

    def picture(self, row: int) -> Source | Flaw:
        """Where the picture of a row is, or why it is not taken."""
        try:
            return self.pictures([row])[0][1]
        except Refused as error:
            return error.flaw

    def align(self, multiple: int) -> None:
        """Make the sides of buckets multiples of `multiple` pixels; before anything else is asked."""
        self.multiple = multiple

    @property
    def frame(self) -> Any:
        """JSON: what the pixels depend on beside the pictures."""
        return self.resolution if self._crop == "centre" else [self.resolution, self._crop, self.multiple]

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over resolution, crop, and the bytes and captions of all pictures, however they are packed."""
        found = hashlib.sha256(json.dumps(["pictures-1", self.frame]).encode())
        for row in range(len(self)):
            source, (caption,) = self.probe(row), self.prompts([row])
            content = source.reason if isinstance(source, Flaw) else content_hash(source)
            found.update(json.dumps([content, caption]).encode())
        return found.hexdigest()

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1], all of the size of the first; raises `DataError` with the name of a picture that
        cannot be read."""
        return crops(self.pictures(rows), self._size(rows[0]))

    @cached_property
    def pools(self) -> list[Pool]:
        if self._crop == "centre":
            return [Pool(np.arange(len(self)))]
        rows = [np.flatnonzero(self._numbers == number) for number in range(len(self._table))]
        return [Pool(own, len(own), size) for own, size in zip(rows, self._table, strict=True) if len(own)]

    def _size(self, row: int) -> Size:
        return (self.resolution, self.resolution) if self._crop == "centre" else self._table[self._numbers[row]]

    @cached_property
    def _table(self) -> list[Size]:
        return buckets.table(self.resolution, self.multiple)

    @cached_property
    def _numbers(self) -> np.ndarray:
        """The bucket of every picture, from its header."""
        found = ahead(buckets.measure, (self.probe(row) for row in range(len(self))))
        return buckets.nearest(self._table, np.array(list(found))).astype(np.int16)


def content_hash(source: Source) -> str:
    """SHA-256 of the bytes of a picture; empty where there are none to read, so that it is left out anyway."""
    try:
        if isinstance(source, Path):
            return file_hash(source) if source.is_file() else ""
        return hashlib.sha256(source.read() if isinstance(source, Place) else source).hexdigest()
    except (OSError, Refused):
        return ""


def files(path: str, suffix: str) -> list[Path]:
    """A file itself, all files of a folder with that ending at any depth, or what a pattern matches; by name."""
    place = Path(path).expanduser()
    if place.is_file():
        return [place]
    root = Path(place.anchor)
    found = place.rglob(f"*{suffix}") if place.is_dir() else root.glob(str(place.relative_to(root)))
    names = sorted(file for file in found if file.is_file() and not file.name.startswith("."))
    if not names:
        told = f"No {suffix} file in '{place}'." if place.is_dir() else f"There is no file '{place}'."
        raise DataError(told, f"Set data.path to a {suffix} file, a folder of them, or a pattern in quotes.")
    return names


def column(names: Sequence[str], asked: str | None, known: Sequence[str], setting: str, place: str) -> str:
    """The column to read: the one that is `asked` for, else the first `known` one; `setting`: the key that asks."""
    found = next((name for name in ((asked,) if asked else known) if name in names), None)
    if found is None:
        told = f"'{place}' has no column {asked or ' or '.join(known)}; it has {', '.join(names)}."
        raise DataError(told, f"Name it: data.{setting}.")
    return found
