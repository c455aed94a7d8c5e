"""The door for the detector that GenEval was made with: what mmdet found, one JSON line a picture.

    {"filename": ".../00007/samples/00002.png", "sha256": "...", "objects": [{"kind": "dog", "box": [x0, y0, x1, y1],
     "confidence": 0.98, "mask": [run lengths, row by row, the background first]}]}

`mask` may be left out, as the official code allows; colours are then read from the whole box. `sha256` of the picture's
file may be left out too, but only with it a line cannot pass for what was found in another model's picture of the same
name: without it nothing but the size of the masks is compared. docs/evaluation.md has the lines of Python that write
this file where mmdet 2.x is installed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
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
        line = Line.of(ledger.read((self.path, start)))
        if line.sha256 not in ("", picture.sha256):
            return {"error": f"what {self.path.name} says is of another picture"}
        width, height = picture.size
        if any(seen.mask is not None and sum(seen.mask) != width * height for seen in line.objects):
            return {"error": f"the masks in {self.path.name} are not of {width} x {height} pixels"}
        return {"objects": [seen.to_json() for seen in line.objects]}


@dataclass(frozen=True)
class Line:
    """What was found in a picture. `sha256`: of its file; "" where the line does not say."""

    objects: tuple[Seen, ...]
    sha256: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Line:
        """Raises `ValueError`, `KeyError`, `TypeError` or `OverflowError` for what is none."""
        return cls(tuple(_seen(one) for one in row["objects"]), str(row.get("sha256", "")))


def read(path: Path) -> dict[tuple[str, int], int]:
    """(prompt id, k) -> the byte that its line begins at; a line that is none of the above raises `DataError` with its
    number."""
    starts, start = {}, 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                Line.of(row)
                starts[place(row["filename"])] = start
            except (ValueError, KeyError, TypeError, OverflowError) as error:
                told = f"{path}, line {number}: no detections of a picture ({type(error).__name__}: {error})."
                raise DataError(told, REMEDY) from error
            start += len(line)
    return starts


def _seen(row: Mapping[str, Any]) -> Seen:
    """Raises `ValueError` for what no rule and no crop could take."""
    seen = Seen.from_json(row)
    if seen.kind not in CLASSES:
        raise ValueError(f"GenEval has no class '{seen.kind}'")
    x0, y0, x1, y1 = seen.box
    if not (-inf < x0 < x1 < inf and -inf < y0 < y1 < inf):
        raise ValueError(f"the box of the {seen.kind} has no area")
    if any(type(run) is not int or run < 0 for run in seen.mask or ()):
        raise ValueError(f"the mask of the {seen.kind} is not made of run lengths")
    return seen


def place(filename: str) -> tuple[str, int]:
    """Prompt id and k of `.../00007/samples/00002.png`."""
    path = PurePosixPath(filename)
    return path.parent.parent.name, int(path.stem)
