"""The door for the detector that GenEval was made with: what mmdet found, one JSON line a picture.

    {"filename": ".../00007/samples/00002.png", "objects": [{"kind": "dog", "box": [x0, y0, x1, y1], "confidence": 0.98,
     "mask": [run lengths, row by row, the background first]}]}

`mask` may be left out, as the official code allows; colours are then read from the whole box. docs/evaluation.md has
the lines of Python that write this file where mmdet 2.x is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from apex_cli.errors import DataError
from apex_cli.evaluation import ledger
from apex_cli.evaluation.assets import file_sha256
from apex_cli.evaluation.base import Item, Observation, Picture
from apex_cli.evaluation.geneval.seen import Seen
from apex_cli.evaluation.geneval_prompts import CLASSES

REMEDY = "docs/evaluation.md says how to write the file."


class RecordedDetections:
    """The stage of detections, from the file."""

    name, uses, batch = "detections", (), 64

    def __init__(self, path: Path):
        self.path = path

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"detector": "mmdet", "file": file_sha256(self.path)}

    def question(self, item: Item) -> str:
        return item.id

    def open(self) -> None:
        self.starts = read(self.path)

    def prepare(self, picture: Picture) -> None:
        """The file says it all."""

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        return [self._find(picture) for picture in pictures]

    def _find(self, picture: Picture) -> Observation:
        start = self.starts.get((picture.item.id, picture.k))
        if start is None:
            return {"error": f"not in {self.path.name}"}
        return {"objects": _objects(ledger.read((self.path, start)))}


def read(path: Path) -> dict[tuple[str, int], int]:
    """(prompt id, k) -> the byte that its line begins at; a line that is none of the above raises `DataError` with its
    number."""
    starts, start = {}, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                slot, objects = place(row["filename"]), _objects(row)
            except (ValueError, KeyError, TypeError) as error:
                told = f"{path}, line {number}: no detections of a picture ({type(error).__name__}: {error})."
                raise DataError(told, REMEDY) from error
            if strange := sorted({one["kind"] for one in objects} - set(CLASSES)):
                raise DataError(f"{path}, line {number}: GenEval has no class '{strange[0]}'.", REMEDY)
            starts[slot] = start
            start += len(line)
    return starts


def _objects(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [Seen.from_json(one).to_json() for one in row["objects"]]


def place(filename: str) -> tuple[str, int]:
    """Prompt id and k of `.../00007/samples/00002.png`."""
    path = PurePosixPath(filename)
    return path.parent.parent.name, int(path.stem)
