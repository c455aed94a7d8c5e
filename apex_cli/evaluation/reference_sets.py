"""Makes a reference set from a folder of pictures; killed, the same command continues."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apex_cli.errors import DataError
from apex_cli.evaluation import pictures, reference
from apex_cli.evaluation.distances import SetDistance, stacked
from apex_cli.evaluation.observations import observe, open_stores
from apex_cli.evaluation.pictures import Inspector
from apex_cli.evaluation.records import Flaw
from apex_cli.records import Progress


@dataclass(frozen=True)
class Made:
    """The file, the pictures in it, and those that were left out, by name."""

    path: Path
    n: int
    flaws: list[Flaw]


def collect(protocol: SetDistance, folder: Path, name: str | None = None) -> Iterator[Progress | Made]:
    """Yields progress and last what was made, under `name` or the name of the folder."""
    path = reference.place(protocol.base, name or reference.name_of(folder))
    home = path.with_suffix("")
    found = pictures.files(folder, set())
    inspector = Inspector(home)
    for done, _ in enumerate(inspector.look_at([file.path for file in found]), 1):
        yield Progress("inspect", done, len(found))
    items, n = pictures.items_of(found)
    slots, flaws = pictures.match(found, items, n)
    there = pictures.collect(slots, items, n, inspector, {})
    stage = protocol.stages[0]
    stores = open_stores(home, [stage])
    for phase, done, total in observe(stores, there.pictures):
        yield Progress(phase, done, total)
    seen = stores[stage.name]
    errors = {picture: seen.failed(picture) for picture in there.pictures}
    sound = [picture for picture, told in errors.items() if not told]
    if len(sound) < 2:
        raise DataError(f"'{folder}' holds no two sound pictures.", "Give a folder of pictures.")
    reference.write(path, stacked(sound, seen), stage.identity, protocol.whole)
    undecoded = [Flaw(kind="unreadable", name=str(p.path), detail=told) for p, told in errors.items() if told]
    unusable = [flaw for flaw in (*flaws, *there.flaws, *undecoded) if flaw.kind in ("unreadable", "unexpected")]
    yield Made(path, len(sound), unusable)
