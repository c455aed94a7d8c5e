"""What stages said, kept by content: the same picture, question and stage are never looked at twice.

observations/detections-1f0c.../rows.jsonl             {"key", "said": JSON, "arrays": file or null}
observations/features-9ab2.../part-77e0....safetensors  "KEY/NAME" -> array, one file a batch
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from apex_cli.data.ahead import ahead
from apex_cli.data.store import draft
from apex_cli.errors import StorageError
from apex_cli.evaluation.base import Observation, Picture, Stage
from apex_cli.evaluation.ledger import Ledger, Place, Shard, read

PARTS_OPEN = 4  # pictures are read in the order they were seen in, so few parts are wanted at a time


def digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class Kept(NamedTuple):
    """Of an observation: where its row lies, and the error that it is, or ""."""

    place: Place
    error: str


class Store:
    """The observations of one stage. `identity`: of the stage and of those it uses. In memory is only where each lies:
    the masks of ten thousand pictures are gigabytes."""

    def __init__(self, folder: Path, stage: Stage, identity: Mapping[str, Any], shard: Shard = Shard()):
        self.stage = stage
        self.folder = folder / "observations" / f"{stage.name}-{digest(dict(identity))[:12]}"
        self.ledger = Ledger(self.folder, "rows", shard)
        self.kept: dict[str, Kept] = {}
        for place, row in self.ledger.placed():
            self._keep(place, row)
        self._part = lru_cache(PARTS_OPEN)(self._read)

    def key(self, picture: Picture) -> str:
        return digest([picture.sha256, self.stage.question(picture.item)])[:32]

    def __contains__(self, picture: Picture) -> bool:
        """Whether it was observed, be it with an error."""
        return self.key(picture) in self.kept

    def __getitem__(self, picture: Picture) -> Observation:
        row = read(self.kept[self.key(picture)].place)
        return row["said"] | (self._arrays(row) if row["arrays"] else {})

    def failed(self, picture: Picture) -> str:
        """The error of the last attempt; empty where it was observed."""
        kept = self.kept.get(self.key(picture))
        return kept.error if kept else ""

    def lacks(self, picture: Picture) -> bool:
        """Whether it has to be looked at, perhaps again."""
        kept = self.kept.get(self.key(picture))
        return kept is None or bool(kept.error)

    def add(self, pictures: Sequence[Picture], said: Sequence[Observation]) -> None:
        """Keep what was said; arrays lie on disk before the lines that name them."""
        keys = [self.key(picture) for picture in pictures]
        arrays = {
            f"{key}/{name}": value
            for key, one in zip(keys, said, strict=True)
            for name, value in one.items()
            if isinstance(value, np.ndarray)
        }
        part = self._write(arrays) if arrays else None
        rows = [{"key": key, "said": _plain(one), "arrays": part} for key, one in zip(keys, said, strict=True)]
        for place, row in zip(self.ledger.append(*rows), rows, strict=True):
            self._keep(place, row)

    def _keep(self, place: Place, row: Mapping[str, Any]) -> None:
        """Of several rows of a picture the last one counts, an error only where there is nothing else: the files of
        several workers are not read in the order that they were written in."""
        kept, error = self.kept.get(row["key"]), row["said"].get("error", "")
        if kept is None or kept.error or not error:
            self.kept[row["key"]] = Kept(place, error)

    def _write(self, arrays: Mapping[str, np.ndarray]) -> str:
        from safetensors.numpy import save

        content = save({name: np.ascontiguousarray(value) for name, value in arrays.items()})
        name = f"part-{hashlib.sha256(content).hexdigest()[:24]}.safetensors"
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = draft(self.folder / name)
        temporary.write_bytes(content)
        temporary.replace(self.folder / name)
        return name

    def _read(self, name: str) -> dict[str, np.ndarray]:
        from safetensors.numpy import load_file

        try:
            return load_file(self.folder / name)
        except OSError as error:
            told = f"'{self.folder / name}' is gone or damaged."
            raise StorageError(told, f"Delete '{self.folder}'; the next run looks at the pictures again.") from error

    def _arrays(self, row: Mapping[str, Any]) -> dict[str, np.ndarray]:
        prefix = f"{row['key']}/"
        part = self._part(row["arrays"])
        return {name.removeprefix(prefix): value for name, value in part.items() if name.startswith(prefix)}


def _plain(said: Observation) -> dict[str, Any]:
    return {name: value for name, value in said.items() if not isinstance(value, np.ndarray)}


def open_stores(folder: Path, stages: Sequence[Stage], shard: Shard = Shard()) -> dict[str, Store]:
    """Stage name -> store; a stage that uses others is another one when they change."""
    stores: dict[str, Store] = {}
    identities: dict[str, dict[str, Any]] = {}
    for stage in stages:
        own = dict(stage.identity)
        identities[stage.name] = own | ({"uses": [identities[name] for name in stage.uses]} if stage.uses else {})
        stores[stage.name] = Store(folder, stage, identities[stage.name], shard)
    return stores


def observe(stores: Mapping[str, Store], pictures: Sequence[Picture]) -> Iterator[tuple[str, int, int]]:
    """Run every stage over the pictures it lacks; yields (stage, done, of all these pictures)."""
    for name, store in stores.items():
        missing = [picture for picture in pictures if store.lacks(picture)]
        done = len(pictures) - len(missing)
        if missing:
            store.stage.open()
        # While a stage looks at a batch, the next one is prepared; no more than these two are in memory.
        prepared = ahead(partial(prepare, store.stage), missing, window=store.stage.batch + 1)
        while batch := list(islice(prepared, store.stage.batch)):
            seen = [picture for picture, _ in batch]
            store.add(seen, said(stores, store.stage, batch))
            done += len(batch)
            yield name, done, len(pictures)


@dataclass(frozen=True)
class Unusable:
    """In the place of what a stage takes of a picture: why there is none."""

    why: str


def prepare(stage: Stage, picture: Picture) -> tuple[Picture, Any]:
    try:
        return picture, stage.prepare(picture)
    except ValueError as error:
        return picture, Unusable(str(error))


def said(stores: Mapping[str, Store], stage: Stage, batch: Sequence[tuple[Picture, Any]]) -> Sequence[Observation]:
    usable = [(picture, made) for picture, made in batch if not isinstance(made, Unusable)]
    pictures, prepared = zip(*usable, strict=True) if usable else ((), ())
    before = {used: [stores[used][picture] for picture in pictures] for used in stage.uses}
    told = iter(stage.observe(pictures, prepared, before) if usable else [])
    return [{"error": made.why} if isinstance(made, Unusable) else next(told) for _, made in batch]
