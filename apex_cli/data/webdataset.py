"""WebDataset shards as others publish them: tars in which the files of a sample lie under one name.

    0001.jpg, 0001.txt, 0002.jpg, 0002.txt, ...

The headers of a tar are read once at the start, its pictures from their places. Nothing is ever unpacked. What a tar
lacks or what is refused of it counts as a broken sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from apex_cli.data import members, tars
from apex_cli.data.flaws import Flaw, Refused
from apex_cli.data.picture_data import PictureConfig, PictureData, files
from apex_cli.data.pictures import SUFFIXES, Named
from apex_cli.data.places import Place
from apex_cli.errors import DataError


class WebDatasetConfig(PictureConfig):
    path: str = Field(min_length=1)
    """A tar, a folder with *.tar at any depth, or a pattern such as data/shard-*.tar."""
    caption: str = "txt"
    """Suffix of the file with the caption; `json:prompt` is the entry `prompt` of a JSON file."""


@dataclass(frozen=True)
class Row:
    name: str
    picture: Place | Flaw
    caption: str | Flaw


class WebDataset(PictureData):
    """`prompts(rows)` and `pixels(rows)` of shards, in the order of their names and of the samples in them."""

    Config: ClassVar[type[Any]] = WebDatasetConfig

    def __init__(self, config: Any, resolution: int):
        super().__init__(config, resolution)
        self._rows = [row for shard in self._shards() for row in self._read(shard)]
        if not any(isinstance(row.picture, Place) for row in self._rows):
            first = "".join(f": {row.name}: {row.picture.told}" for row in self._rows[:1])  # pyright: ignore
            told = f"No picture in the tars of '{config.path}'{first}."
            raise DataError(told, f"Known are {', '.join(sorted(SUFFIXES))}.")

    def _shards(self) -> list[Path]:
        return files(self.config.path, ".tar")

    def _caption(self, key: str, found: members.Members) -> str | Flaw:
        kind, _, entry = self.config.caption.partition(":")
        return members.text(found, kind, [entry] if entry else [])

    def _read(self, shard: Path) -> Iterator[Row]:
        """All samples of a tar; what has neither picture nor caption, a README say, is none."""
        listing = tars.scan(shard)
        broken: dict[str, Flaw] = {}
        for name, flaw in listing.flaws:
            if flaw.broken:
                broken.setdefault(name, flaw)
        for key, found in listing.samples.items():
            flaw, picture, caption = broken.pop(key, None), members.picture(found), self._caption(key, found)
            if flaw or not (_lacks(picture, "picture") and _lacks(caption, "caption")):
                yield Row(f"{shard}/{key}", flaw or picture, flaw or caption)
        for name, flaw in broken.items():
            yield Row(str(shard) if name == shard.name else f"{shard}/{name}", flaw, flaw)

    def __len__(self) -> int:
        return len(self._rows)

    def captions(self, rows: Sequence[int]) -> list[str | Flaw]:
        return [self._rows[row].caption for row in rows]

    def name(self, row: int) -> str:
        return self._rows[row].name

    def pictures(self, rows: Sequence[int]) -> list[Named]:
        return [(self._rows[row].name, _place(self._rows[row].picture)) for row in rows]


def _lacks(found: Place | str | Flaw, part: str) -> bool:
    return isinstance(found, Flaw) and found.reason == f"{part}-missing"


def _place(found: Place | Flaw) -> Place:
    if isinstance(found, Flaw):
        raise Refused(found.reason, found.told)
    return found
