"""WebDataset shards as others publish them: tars in which the files of a sample lie under one name.

    0001.jpg, 0001.txt, 0002.jpg, 0002.txt, ...

The headers of a tar are read once at the start, its pictures from their places. Nothing is ever unpacked.
"""

from __future__ import annotations

import json
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from apex_cli.data.picture_data import PictureConfig, PictureData, files, worded
from apex_cli.data.pictures import SUFFIXES, Named
from apex_cli.data.places import Place
from apex_cli.errors import DataError

FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
"""Members that are looked at: no links, devices or sparse files."""
TEXT_BYTES = 2**20
"""Most of a caption that is read."""
NOWHERE = Place(Path(), 0, 0)


class WebDatasetConfig(PictureConfig):
    path: str = Field(min_length=1)
    """A tar, a folder with *.tar at any depth, or a pattern such as data/shard-*.tar."""
    caption: str = "txt"
    """Suffix of the file with the caption; `json:prompt` is the entry `prompt` of a JSON file."""


@dataclass
class Sample:
    """`member`: the name of the picture in `shard`; `place`: where it lies there. A sample may have none."""

    shard: Path
    member: str = ""
    place: Place = NOWHERE
    text: bytes = b""

    @property
    def name(self) -> str:
        return f"{self.shard}/{self.member}"


class WebDataset(PictureData):
    """`prompts(rows)` and `pixels(rows)` of shards, in the order of their names and of the samples in them."""

    Config: ClassVar[type[Any]] = WebDatasetConfig

    def __init__(self, config: Any, resolution: int):
        super().__init__(config, resolution)
        self._pictures: list[Named] = []
        self._captions: list[str] = []
        for sample, caption in self._samples(config):
            self._pictures.append((sample.name, sample.place))
            self._captions.append(worded(sample.name, caption))
        if not self._pictures:
            raise DataError(f"No picture in the tars of '{config.path}'.", f"Known are {', '.join(sorted(SUFFIXES))}.")

    def _samples(self, config: Any) -> Iterator[tuple[Sample, Any]]:
        """All samples with a picture, and their captions."""
        suffix, _, entry = config.caption.partition(":")
        for shard in files(config.path, ".tar"):
            yield from ((one, _caption(one, entry)) for one in samples(shard, suffix) if one.member)

    def __len__(self) -> int:
        return len(self._pictures)

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [self._captions[row] for row in rows]

    def name(self, row: int) -> str:
        return self._pictures[row][0]

    def pictures(self, rows: Sequence[int]) -> list[Named]:
        return [self._pictures[row] for row in rows]


def samples(shard: Path, text: str | None = None) -> Iterator[Sample]:
    """The samples of a tar: of each the first picture, and what its member with suffix `text` says."""
    found: dict[str, Sample] = defaultdict(lambda: Sample(shard))
    try:
        with tarfile.open(shard, "r:") as tar:
            for member in (one for one in tar if one.type in FILES):
                folder, slash, name = member.name.rpartition("/")
                key, _, suffix = name.partition(".")
                sample = found[folder + slash + key]
                if suffix == text:
                    sample.text = Place(shard, member.offset_data, min(member.size, TEXT_BYTES)).read()
                elif f".{suffix.lower()}" in SUFFIXES and not sample.member:
                    sample.member, sample.place = member.name, Place(shard, member.offset_data, member.size)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"The shard '{shard}' could not be read: {error}.", "Copy or download it again.") from error
    yield from found.values()


def _caption(sample: Sample, entry: str) -> Any:
    """The text of a sample, or one entry of it where it is JSON."""
    try:
        return json.loads(sample.text).get(entry) if entry and sample.text else sample.text.decode("utf-8-sig")
    except (ValueError, AttributeError) as error:
        told = f"The caption of '{sample.name}' is no {'JSON object' if entry else 'text in UTF-8'}."
        raise DataError(told, "Mend it, or name another file of the sample: data.caption.") from error
