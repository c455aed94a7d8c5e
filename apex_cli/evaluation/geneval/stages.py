"""The passes of GenEval over the pictures: objects, from a model or from a file of mmdet's, and their colours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apex_cli.evaluation.assets import file_sha256
from apex_cli.evaluation.base import Item, Observation, Picture
from apex_cli.evaluation.geneval import canary, colors, mask2former
from apex_cli.evaluation.geneval.seen import Seen

WEIGHTS_FILE = "model.safetensors"


class Detections:
    """What a Mask2Former sees; it does not depend on the prompt."""

    name, uses = "detections", ()

    def __init__(self, folder: Path, batch: int, strictness: canary.Strictness):
        self.folder, self.batch = folder, batch
        self.strictness: canary.Strictness = strictness

    @property
    def identity(self) -> Mapping[str, Any]:
        settings = {"input": [mask2former.LONG, mask2former.SHORT, mask2former.MULTIPLE], "floor": mask2former.FLOOR}
        weights = file_sha256(self.folder / WEIGHTS_FILE)
        return {"detector": "Mask2Former", "weights": weights, "version": mask2former.VERSION, **settings}

    def question(self, item: Item) -> str:
        return ""

    def open(self) -> None:
        self.detector = mask2former.Mask2Former(self.folder)
        canary.check_detector(self.detector, self.folder, self.identity["weights"], self.strictness)

    def prepare(self, picture: Picture) -> Any:
        return picture.pixels()

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        found = self.detector.detect(prepared)
        return [{"objects": [seen.to_json() for seen in one]} for one in found]


class Colors:
    """How probable each colour is for the objects whose colour the prompt names; {} for a prompt that names none."""

    name, uses, batch = "colors", ("detections",), 16

    def __init__(self, folder: Path, strictness: canary.Strictness):
        self.folder = folder
        self.strictness: canary.Strictness = strictness

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"namer": "CLIP", "weights": file_sha256(self.folder / WEIGHTS_FILE), "version": colors.VERSION}

    def question(self, item: Item) -> str:
        return json.dumps(_colored(item))

    def open(self) -> None:
        self.namer = colors.ColorNamer(self.folder)
        canary.check_namer(self.namer, self.folder, self.identity["weights"], self.strictness)

    def prepare(self, picture: Picture) -> Any:
        return picture.pixels() if _colored(picture.item) else None

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        found = [_asked(*one) for one in zip(pictures, before["detections"], strict=True)]
        things = [(pixels, thing) for pixels, own in zip(prepared, found, strict=True) for thing in own.values()]
        named = iter(self.namer.name(things))
        rows = [{"colors": {str(i): next(named) for i in own}} for own in found]
        return [
            {"error": "no detections"} if "error" in said else row
            for said, row in zip(before["detections"], rows, strict=True)
        ]


def _asked(picture: Picture, said: Observation) -> dict[int, Seen]:
    """The objects whose colour the prompt names, by their place."""
    asked = _colored(picture.item)
    return {i: Seen.from_json(row) for i, row in enumerate(said.get("objects", ())) if row["kind"] in asked}


def _colored(item: Item) -> list[str]:
    """The classes whose colour is asked."""
    return sorted({clause["class"] for clause in item.meta["include"] if "color" in clause})


def seen(detections: Observation, named: Observation) -> list[Seen]:
    """The objects of a picture with their colours."""
    rows = enumerate(detections["objects"])
    return [Seen.from_json(row).colored(named["colors"].get(str(i), {})) for i, row in rows]
