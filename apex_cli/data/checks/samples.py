"""A data set as a stream of samples: a folder of pictures, or tar shards with or without our index."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from apex_cli.data import folder as folders
from apex_cli.data import members, shards, tars
from apex_cli.data.flaws import Flaw
from apex_cli.data.pictures import Source as Picture
from apex_cli.data.places import Place
from apex_cli.data.prompt_files import COLUMNS
from apex_cli.errors import DataError

LISTED = ["shard", "key", "offset", "size", "sha256", "prompt"]
Row = dict[str, Any]
"""What index.parquet says of a sample."""


@dataclass(frozen=True)
class Sample:
    """`picture`: where it lies, None where there is none to look at; `flaws`: what is known without a look at it."""

    name: str
    picture: Picture | None
    caption: str | None
    flaws: tuple[Flaw, ...] = ()


class Source(Protocol):
    kind: str

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Sample]: ...


class FolderSource:
    """What `[data] name = "folder"` reads."""

    kind = "folder"

    def __init__(self, folder: Path, column: str | None):
        self._folder, self._found = folder, folders.samples(folder, column)

    def __len__(self) -> int:
        return len(self._found)

    def __iter__(self) -> Iterator[Sample]:
        for name, caption in self._found.items():
            if not isinstance(caption, Flaw):
                yield Sample(name, self._folder / name, caption)
            elif caption.reason in ("picture-missing", "member-outside"):
                yield Sample(name, None, None, (caption,))
            else:
                yield Sample(name, self._folder / name, None, (caption,))


class ShardSource:
    """What lies in the tars of a folder, held against its manifest and index where it has them."""

    kind = "shards"

    def __init__(self, folder: Path):
        self._folder = folder
        listed = list(shards.read_manifest(folder)["shards"]) if (folder / shards.MANIFEST).is_file() else []
        self._index = shards.open_index(folder) if listed else None
        self._names = sorted({*listed, *(path.name for path in folder.glob("*.tar"))})
        if self._index is not None and (lost := set(LISTED) - set(self._index.schema_arrow.names)):
            told = f"'{folder / shards.INDEX}' has no column {', '.join(sorted(lost))}."
            raise DataError(told, "Copy it again, with its shards.")

    def __len__(self) -> int:
        if self._index is not None:
            return max(1, self._index.metadata.num_rows)
        return max(1, sum(len(tars.scan(self._folder / name).samples) for name in self._names))

    def __iter__(self) -> Iterator[Sample]:
        seen = set()
        for shard, rows in itertools.groupby(self._rows(), key=lambda row: row["shard"]):
            seen.add(shard)
            yield from self._shard(shard, {row["key"]: row for row in rows})
        for shard in self._names:
            if shard not in seen:
                yield from self._shard(shard, None if self._index is None else {})

    def _rows(self) -> Iterator[Row]:
        """The index, a piece of it in memory."""
        batches: Iterable[Any] = () if self._index is None else self._index.iter_batches(1024, columns=LISTED)
        for batch in batches:
            yield from batch.to_pylist()

    def _shard(self, shard: str, listed: Mapping[str, Row] | None) -> Iterator[Sample]:
        """The samples of one shard; `listed`: its rows of the index by key, None where there is no index."""
        path = self._folder / shard
        if shard not in self._names or not path.is_file():
            what = Flaw("shard-missing", f"'{shard}' is not there")
            if shard not in self._names:
                what = Flaw("member-outside", f"lies in '{shard}' by index.parquet, which is no shard of the set")
            yield from (Sample(f"{shard}/{key}", None, None, (what,)) for key in listed or [""])
            return
        listing, flaws = tars.scan(path), defaultdict(list)
        for name, flaw in listing.flaws:
            flaws[name].append(flaw)
        for key, found in listing.samples.items():
            yield _sample(f"{shard}/{key}", found, flaws.pop(key, []), listed, key)
        for key in (listed or {}).keys() - listing.samples.keys():
            lost = Flaw("picture-missing", "is listed in index.parquet, but not in the shard")
            yield Sample(f"{shard}/{key}", None, None, (lost,))
        for name, told in flaws.items():
            yield Sample(shard if name == shard else f"{shard}/{name}", None, None, tuple(told))


def _sample(name: str, found: members.Members, flaws: list[Flaw], listed: Mapping[str, Row] | None, key: str) -> Sample:
    """A sample of its members; one that lacks a member, or has one too many, says so."""
    caption, place = _caption(found), members.picture(found)
    if not any(flaw.broken for flaw in flaws):
        flaws += [flaw for flaw in (place, caption) if isinstance(flaw, Flaw)]
    if listed is not None and isinstance(place, Place):
        row = listed.get(key)
        if row is None:
            flaws.append(Flaw("unlisted", "is not listed in index.parquet"))
        elif (row["offset"], row["size"]) != (place.offset, place.size):
            flaws.append(Flaw("altered", "does not lie where index.parquet says"))
        else:
            place = Place(place.path, place.offset, place.size, row["sha256"])
    picture = place if isinstance(place, Place) else None
    return Sample(name, picture, caption if isinstance(caption, str) else None, tuple(flaws))


def _caption(found: members.Members) -> str | Flaw:
    """The prompt in `.json`, else the text in `.txt`."""
    said: str | Flaw = Flaw("caption-missing", f"has {members.named(found)}, but no caption in .json or .txt")
    for kind, entries in (("json", COLUMNS), ("txt", ())):
        if kind in found:
            said = members.text(found, kind, entries)
            if isinstance(said, str) or said.reason != "caption-empty":
                break
    return said
