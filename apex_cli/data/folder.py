"""A user's own pictures: a folder of images, captions in text files beside them or in one metadata file.

Row i is the i-th picture by its name relative to the folder, subfolders included. Its caption stands in `NAME.txt`
beside `NAME.jpg`, or, where the folder holds a `metadata.jsonl` or `metadata.csv`, in the row with its `file_name`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import Field

from apex_cli.data import screen
from apex_cli.data.flaws import Flaw
from apex_cli.data.picture_data import PictureConfig, PictureData, content_hash
from apex_cli.data.pictures import SUFFIXES, Named
from apex_cli.data.places import CAPTION_BYTES
from apex_cli.data.tars import is_outside
from apex_cli.errors import DataError, UsageError

METADATA = ("metadata.jsonl", "metadata.csv")
COLUMNS = ("text", "prompt")
"""Columns of the captions where the recipe names none, the first one that a row has."""


class FolderConfig(PictureConfig):
    path: str = Field(min_length=1)
    """The folder; relative to where the command runs."""
    caption_column: str | None = None
    """Column of metadata.jsonl or metadata.csv with the captions; None takes `text`, else `prompt`."""


class FolderData(PictureData):
    """`prompts(rows)` and `pixels(rows)` of a folder; the pictures are read when asked for, the captions at once."""

    Config = FolderConfig

    def __init__(self, config: FolderConfig, resolution: int):
        super().__init__(config, resolution)
        self._folder = Path(config.path).expanduser()
        found = samples(self._folder, config.caption_column)
        self._names, self._captions = list(found), list(found.values())
        screen.refuse([(name, flaw) for name, flaw in found.items() if isinstance(flaw, Flaw)], len(found), config)

    def __len__(self) -> int:
        return len(self._names)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over resolution, crop, names, captions and the bytes of all pictures.

        Bytes, not sizes and times: a copy of the folder on another machine is the same data, and a picture replaced
        under its old time is not. Encoded latents are kept under this key. Whoever only plans does not ask for it.
        """
        with ThreadPoolExecutor() as pool:
            contents = pool.map(content_hash, (self._folder / name for name in self._names))
            told = [caption if isinstance(caption, str) else caption.reason for caption in self._captions]
            rows = list(zip(self._names, contents, told, strict=True))
        return hashlib.sha256(json.dumps(["folder-1", self.frame, rows]).encode()).hexdigest()

    def captions(self, rows: Sequence[int]) -> list[str | Flaw]:
        return [self._captions[row] for row in rows]

    def name(self, row: int) -> str:
        return self._names[row]

    def pictures(self, rows: Sequence[int]) -> list[Named]:
        files = [self._folder / self._names[row] for row in rows]
        return [(str(file), file) for file in files]


def samples(folder: Path, column: str | None) -> dict[str, str | Flaw]:
    """Name of a picture -> its caption, or what is wrong with the sample without a look at the picture; by name."""
    names = pictures(folder)
    found = captions(folder, names, column)
    bare = Flaw("caption-missing", "has no caption")
    whole = {name: found.get(name, bare) for name in sorted({*names, *found})}
    return {name: caption or Flaw("caption-empty", "has an empty caption") for name, caption in whole.items()}


def pictures(folder: Path) -> list[str]:
    """Names of all pictures relative to `folder`, with `/`, sorted; hidden files and folders do not count."""
    if not folder.is_dir():
        raise DataError(
            f"The folder of pictures '{folder}' does not exist.", "Set data.path to your own; see docs/quickstart.md."
        )
    inside = (file.relative_to(folder) for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES)
    names = sorted(file.as_posix() for file in inside if not any(part.startswith(".") for part in file.parts))
    if not names:
        raise DataError(f"No picture in '{folder}'.", f"Known are {', '.join(sorted(SUFFIXES))}, also in subfolders.")
    return names


def captions(folder: Path, names: Sequence[str], column: str | None) -> dict[str, str | Flaw]:
    """Name of a picture -> caption, from the metadata file if there is one, else from the text files.

    A flaw where a caption cannot be read or told; also for names in the metadata that the folder does not have.
    """
    files = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(files) > 1:
        raise DataError(f"'{folder}' has both {' and '.join(METADATA)}.", "Keep the one that is right.")
    if files:
        return _listed(files[0], names, (column,) if column else COLUMNS)
    if column:
        told = f"data.caption_column is set, but '{folder}' has no {' or '.join(METADATA)}."
        raise UsageError(told, "Leave it out: the captions are read from .txt files.")
    return {name: _beside(file) for name in names if (file := (folder / name).with_suffix(".txt")).is_file()}


def _beside(file: Path) -> str | Flaw:
    """The caption in a text file."""
    if file.stat().st_size > CAPTION_BYTES:
        return Flaw("caption-unreadable", f"has a caption of {file.stat().st_size} bytes, over 1 MiB")
    try:
        return _text(file).strip()
    except DataError:
        return Flaw("caption-unreadable", f"has a caption, '{file.name}', that is not text in UTF-8")


def _listed(file: Path, names: Sequence[str], columns: Sequence[str]) -> dict[str, str | Flaw]:
    """The captions of a metadata file."""
    found: dict[str, str | Flaw] = {}
    for line, row in _rows(file):
        column = next((name for name in columns if name in row), None)
        if column is None or "file_name" not in row:
            told = f"{file}:{line}: needs file_name and {' or '.join(columns)}, has {', '.join(map(str, row))}."
            raise DataError(told, "Name the column of the captions: data.caption_column.")
        name = PurePosixPath(str(row["file_name"]).replace("\\", "/")).as_posix()
        twice = Flaw("key-duplicate", f"stands in {file.name} for the second time (line {line})")
        found[name] = twice if name in found else str(row[column] or "").strip()
    return found | {name: _absent(name, file) for name in found.keys() - set(names)}


def _absent(name: str, file: Path) -> Flaw:
    if is_outside(name):
        return Flaw("member-outside", f"leads out of the folder; {file.name} may only name pictures in it")
    return Flaw("picture-missing", f"stands in {file.name}, but the folder does not have it")


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, row) of a metadata file."""
    if file.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(_text(file)), strict=True)
        try:
            yield from ((reader.line_num, {name: row[name] for name in row if name}) for row in reader)
        except csv.Error as error:
            raise DataError(
                f"{file}:{reader.line_num + 1}: {error}.", "Write one row a picture, quoted as CSV."
            ) from error
        return
    for line, text in enumerate(_text(file).split("\n"), 1):  # a caption may hold the other line breaks of Unicode
        if text.strip():
            yield line, _object(file, line, text)


def _object(file: Path, line: int, text: str) -> dict[str, Any]:
    try:
        row = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file}:{line}: not JSON: {error}.", "Write one JSON object a line.") from error
    if not isinstance(row, dict):
        raise DataError(f"{file}:{line}: not a JSON object.", 'Write {"file_name": "a.png", "text": "a caption"}.')
    return row


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"'{file}' is not text in UTF-8.", "Save it again in UTF-8.") from error
