"""Pictures in a folder, ours or anyone's: found, matched to prompts, opened once, and every odd one named.

Layouts: GenEval's `NNNNN/samples/0000k.png` beside `NNNNN/metadata.jsonl`, which is also how ours are written, and flat
`ID.png`, `ID-k.png` or `ID_k.jpg`, with `metadata.jsonl` of rows {"file_name", "prompt", "tag"?} if prompts are known.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from apex_cli.data.ahead import ahead
from apex_cli.errors import DataError
from apex_cli.evaluation.base import Item, Picture
from apex_cli.evaluation.decoding import BROKEN, ORIENTED, decode
from apex_cli.evaluation.ledger import Ledger, Shard
from apex_cli.evaluation.records import Flaw

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
GREY_MODES = {"1", "L", "LA", "I", "I;16", "F"}
METADATA = "metadata.jsonl"
SAMPLES = "samples"


@dataclass(frozen=True)
class File:
    """A file of a picture as its name tells: picture `k` of the prompt called `id`."""

    path: Path
    id: str
    k: int
    meta: dict[str, Any]
    """What a metadata file beside it says; empty without one."""


@dataclass(frozen=True)
class Collection:
    """Sound pictures in the order of the prompts, and what is wrong with the others."""

    pictures: list[Picture]
    flaws: list[Flaw]
    items: tuple[Item, ...]
    n: int

    @property
    def expected(self) -> int:
        return len(self.items) * self.n


def place(folder: Path, item: Item, k: int) -> Path:
    """Where our own picture `k` of a prompt lies."""
    return folder / item.id / SAMPLES / f"{k:05d}.png"


OBJECTS = "Write one JSON object a line."


def files(folder: Path, ids: set[str]) -> list[File]:
    """All pictures below `folder`, sorted; `ids`: of the prompts, to tell `12-3` from the third of `12`."""
    if not folder.is_dir():
        raise DataError(f"The folder of images '{folder}' does not exist.", "Give a folder of pictures.")
    told = _told(folder / METADATA)
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise DataError(f"There are no images in '{folder}'.", "Expected NNNNN/samples/00000.png or ID.png.")
    return [_file(path, folder, ids, told) for path in found]


def _file(path: Path, folder: Path, ids: set[str], told: dict[str, dict[str, Any]]) -> File:
    if path.parent.name == SAMPLES:
        home = path.parent.parent
        rows = _rows(home / METADATA)
        return File(path, home.name, int(path.stem) if path.stem.isdecimal() else -1, rows[0] if rows else {})
    stem, counted = path.stem, re.fullmatch(r"(.+)[-_](\d+)", path.stem)
    meta = told.get(path.relative_to(folder).as_posix(), {})
    if counted and stem not in ids and (counted[1] in ids or not ids):
        return File(path, counted[1], int(counted[2]), meta)
    return File(path, stem, 0, meta)


def _told(path: Path) -> dict[str, dict[str, Any]]:
    return {row["file_name"]: row for row in _rows(path) if "file_name" in row}


def _rows(path: Path) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise DataError(f"'{path}' is not JSON lines: {error}.", OBJECTS) from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"'{path}' holds a line that is no JSON object.", OBJECTS)
    return rows


def items_of(found: Sequence[File]) -> tuple[tuple[Item, ...], int]:
    """Prompts as a folder names them itself, and the pictures of each; for protocols that have no prompts."""
    metas: dict[str, dict[str, Any]] = {}
    for file in found:
        metas.setdefault(file.id, file.meta)
    items = [Item(id, str(m.get("tag", "all")), str(m.get("prompt", "")), m) for id, m in metas.items()]
    return tuple(items), max(Counter(file.id for file in found).values())


def match(found: Sequence[File], items: Sequence[Item], n: int) -> tuple[dict[tuple[str, int], File], list[Flaw]]:
    """(prompt id, k) -> file. A file whose metadata knows another prompt goes to that prompt, if it is one of these."""
    ids, texts = {item.id: item for item in items}, {item.prompt: item for item in items}
    slots: dict[tuple[str, int], File] = {}
    flaws = []
    for file in found:
        prompt, item = file.meta.get("prompt"), ids.get(file.id)
        if prompt is not None and (item is None or item.prompt != prompt):
            item = texts.get(prompt)
        slot = (item.id, file.k) if item else None
        if slot is None or not 0 <= file.k < n or slot in slots:
            flaws.append(Flaw(kind="unexpected", name=str(file.path), detail=_why(item, file, n, slots)))
        else:
            slots[slot] = file
    return slots, flaws


def _why(item: Item | None, file: File, n: int, slots: Mapping[tuple[str, int], File]) -> str:
    if item is None:
        return f"no prompt '{file.meta.get('prompt', file.id)}' in this set"
    if first := slots.get((item.id, file.k)):
        return f"image {file.k} of '{item.id}' is there already: {first.path.name}"
    return f"image {file.k} of '{item.id}', of which {n} are asked for"


def inspect(path: Path) -> dict[str, Any]:
    """What a file is: SHA-256, width and height (upright), mode, and the `problem` of one that cannot be opened."""
    stat = _stat(path)
    facts = {"path": str(path), "bytes": stat.st_size, "mtime": stat.st_mtime_ns, "sha256": "", "problem": ""}
    try:
        content = path.read_bytes()
    except OSError as error:  # a folder of that name, a link that leads nowhere, a file of others
        return facts | {"problem": str(error.strerror)}
    facts["sha256"] = hashlib.sha256(content).hexdigest()
    try:
        with Image.open(io.BytesIO(content)) as image:
            if not _is_whole(content, image):
                decode(image)
            return facts | {"width": image.width, "height": image.height, "mode": image.mode}
    except UnidentifiedImageError:
        return facts | {"problem": "not an image" if content else "an empty file"}
    except BROKEN as error:
        return facts | {"problem": str(error)}


def _stat(path: Path) -> os.stat_result:
    """Of a file; of the link itself where it leads nowhere."""
    return path.stat() if path.exists() else path.lstat()


def _is_whole(content: bytes, image: Image.Image) -> bool:
    """Whether the file proves itself by checksums, as a PNG does: it need not be decoded before a stage asks for it.
    One whose checksums are wrong may still be readable, and that only its decoder knows; as it alone knows the size of
    one that EXIF turns."""
    if image.format != "PNG" or any(mark in content for mark in ORIENTED):
        return False
    try:
        with Image.open(io.BytesIO(content)) as other:
            other.verify()
    except BROKEN:
        return False
    return True


class Inspector:
    """Remembers what it has seen, by path, size and time of change."""

    def __init__(self, folder: Path, shard: Shard = Shard()):
        self.ledger = Ledger(folder, "pictures", shard)
        self.known = {(row["path"], row["bytes"], row["mtime"]): row for row in self.ledger}

    def look(self, path: Path) -> dict[str, Any]:
        return self.find(path) or self._keep(inspect(path))

    def look_at(self, paths: Sequence[Path]) -> Iterator[None]:
        """Open all that are not known, several at a time; yields after each of `paths`."""
        new = [path for path in paths if self.find(path) is None]
        yield from repeat(None, len(paths) - len(new))
        for row in ahead(inspect, new):
            self._keep(row)
            yield

    def _keep(self, row: dict[str, Any]) -> dict[str, Any]:
        self.ledger.append(row)
        self.known[(row["path"], row["bytes"], row["mtime"])] = row
        return row

    def find(self, path: Path) -> dict[str, Any] | None:
        stat = _stat(path)
        return self.known.get((str(path), stat.st_size, stat.st_mtime_ns))


def collect(
    slots: dict[tuple[str, int], File], items: tuple[Item, ...], n: int, inspector: Inspector, made: dict[str, Any]
) -> Collection:
    """Pictures of files that `inspector` knows. `made`: file -> how it was drawn."""
    pictures, flaws = [], []
    for item in items:
        for k in range(n):
            file = slots.get((item.id, k))
            if file is None:
                flaws.append(Flaw(kind="missing", name=f"{item.id}/{k}", detail=item.prompt))
                continue
            row = inspector.look(file.path)
            if row["problem"]:
                flaws.append(Flaw(kind="unreadable", name=str(file.path), detail=row["problem"]))
                continue
            if row["mode"] != "RGB":
                kind = "greyscale" if row["mode"] in GREY_MODES else "not RGB"
                flaws.append(Flaw(kind=kind, name=str(file.path), detail=f"mode {row['mode']}"))
            size = (row["width"], row["height"])
            pictures.append(Picture(item, k, file.path, row["sha256"], size, made.get(str(file.path), {})))
    return Collection(pictures, [*flaws, *_odd_sizes(pictures)], items, n)


def _odd_sizes(pictures: Sequence[Picture]) -> Iterator[Flaw]:
    usual = Counter(picture.size for picture in pictures).most_common(1)
    for picture in pictures:
        if picture.size != usual[0][0]:
            told = "{} x {}, most are {} x {}".format(*picture.size, *usual[0][0])
            yield Flaw(kind="odd size", name=str(picture.path), detail=told)
