"""House-keeping of the cache folder: what lies there, whether it is whole, and what may go.

Only what apex has written is ever touched: folders named by a key in `latents/` and `prompts/`, files named by one in
`screened/`, and unfinished files.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apex_cli.data import store
from apex_cli.data.store import SCREENED

KINDS = ("latents", "prompts")
KEY = re.compile(r"[0-9a-f]{24}")


@dataclass(frozen=True)
class Entry:
    """One store, or what was found in one data set. `rows`: of finished shards, or samples looked at; `size` in bytes.
    `age`: seconds since a run last used it."""

    kind: str
    key: str
    folder: Path
    rows: int
    size: int
    age: float
    complete: bool
    about: dict[str, str]
    shards: dict[str, Any]
    """What the manifest says of every shard."""


def entries() -> list[Entry]:
    """All stores, the last used first."""
    folders = [folder for kind in KINDS for folder in (store.cache_folder() / kind).glob("*")]
    found = [_entry(folder) for folder in folders if folder.is_dir() and KEY.fullmatch(folder.name)]
    files = (store.cache_folder() / SCREENED).glob("*.json")
    found += [_screened(file) for file in files if KEY.fullmatch(file.stem)]
    return sorted(found, key=lambda entry: entry.age)


def _screened(file: Path) -> Entry:
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        rows, about, complete = int(facts["samples"]), {"data": str(facts["path"])}, True
    except (ValueError, KeyError, TypeError):
        rows, about, complete = 0, {}, False
    found = file.stat()
    age = max(0.0, time.time() - found.st_mtime)
    return Entry(SCREENED, file.stem, file, rows, found.st_size, age, complete, about, {})


def _entry(folder: Path) -> Entry:
    try:
        manifest = json.loads((folder / store.MANIFEST).read_text())
    except (OSError, ValueError):
        manifest = {}
    files = [path.stat() for path in folder.iterdir()]
    complete, shards = manifest.get("complete", False), manifest.get("shards", {})
    facts = shards.values() if complete else map(store.header, folder.glob(store.SHARDS))
    return Entry(
        kind=folder.parent.name,
        key=folder.name,
        folder=folder,
        rows=sum(fact["rows"] for fact in facts if fact),
        size=sum(file.st_size for file in files),
        age=max(0.0, time.time() - max((file.st_mtime for file in files), default=folder.stat().st_mtime)),
        complete=complete,
        about=manifest.get("about", {}),
        shards=shards,
    )


def broken(entry: Entry) -> Iterator[tuple[Path, str]]:
    """(file, what is wrong with it) of every file that is not what was written."""
    if entry.kind == SCREENED and not entry.complete:
        yield entry.folder, "truncated or not readable"
    for name in sorted(entry.shards.keys() | {path.name for path in entry.folder.glob(store.SHARDS)}):
        path, listed = entry.folder / name, entry.shards.get(name)
        found = store.header(path)
        if not path.is_file():
            yield path, "missing"
        elif found is None:
            yield path, "truncated or not readable"
        elif store.digest(store.read(path)) != found["sha256"] or listed not in (None, found):
            yield path, "altered (SHA-256 differs)"


def leftovers() -> list[Path]:
    """Unfinished files of processes that are gone."""
    folder = store.cache_folder()
    places = (*(f"{kind}/*" for kind in KINDS), SCREENED)
    found = (path for place in places for path in folder.glob(f"{place}/.*{store.PARTIAL}"))
    return [path for path in found if store.is_abandoned(path)]


def superfluous(older_than: float | None, max_size: int | None) -> list[Entry]:
    """Stores unused for `older_than` seconds; those that do not fit into `max_size` bytes beside later used ones."""
    gone, kept = [], 0
    for entry in entries():
        kept += entry.size
        if (older_than is not None and entry.age > older_than) or (max_size is not None and kept > max_size):
            gone.append(entry)
            kept -= entry.size
    return gone


def remove(path: Path) -> None:
    """Delete a store or a leftover; the manifest of a store first, so that half of it never looks complete."""
    if path.is_dir():
        (path / store.MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
