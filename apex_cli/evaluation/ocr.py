"""`ocr`: is the text that a prompt asks for in the picture, read by rapidocr, whose weights ship in its package?

Asked for is what stands in straight or curly double quotes. A picture scores 1 - d / length, with d the edit distance
of what was asked to the best stretch of what was read; case, spaces and punctuation aside. Where nothing is asked for,
it is right if nothing is read. Lite: not comparable.
"""

from __future__ import annotations

import json
import logging
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from apex_cli.config import Section
from apex_cli.errors import SetupError
from apex_cli.evaluation.base import Item, Observation, Observed, Picture
from apex_cli.evaluation.catalog import RAPIDOCR
from apex_cli.evaluation.guests import Guest
from apex_cli.evaluation.needs import Package
from apex_cli.evaluation.records import Box, Certificate, ImageRecord, Result
from apex_cli.evaluation.scores import score, task_scores

VERSION = 2
CONFIDENCE = 0.5
"""Of a line that counts as read: rapidocr's own threshold."""
ENLARGED_BELOW = 64
"""Pictures with a shorter side below this many pixels are enlarged for the search. At rapidocr's own 736 letters get so
large that words come in pieces which overlap, and a letter is read twice."""
QUOTED = re.compile(r"[\"“]([^\"“”]+)[\"”]")
CANARY = "Jazz Night"


class OcrConfig(Section):
    pass


class Reading:
    """Observes {"lines": [{"text", "score", "box"}]} of each picture, top to bottom."""

    name, uses, batch = "text", (), 4

    def __init__(self, identity: Mapping[str, Any]):
        self.identity = identity
        self.engine: Any = None

    def question(self, item: Item) -> str:
        return ""

    def open(self) -> None:
        if self.engine is None:
            from rapidocr import RapidOCR

            logging.getLogger("RapidOCR").setLevel(logging.ERROR)
            search = {"Det.limit_type": "min", "Det.limit_side_len": ENLARGED_BELOW}
            self.engine = RapidOCR(params={"Global.text_score": CONFIDENCE, "Global.log_level": "error", **search})
            if agreement(CANARY, read := " ".join(line["text"] for line in self.read(written(CANARY)))) < 1:
                told = f"The text reader is broken: it reads '{read}' where '{CANARY}' is written."
                raise SetupError(told, "Install rapidocr and onnxruntime in the versions of constraints-cpu.txt.")

    def prepare(self, picture: Picture) -> Any:
        return picture.pixels()

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        return [{"lines": self.read(pixels)} for pixels in prepared]

    def read(self, pixels: Any) -> list[dict[str, Any]]:
        """Of uint8 [H, W, 3], RGB; the reader wants BGR."""
        found = self.engine(pixels[:, :, ::-1])
        if found.txts is None:
            return []
        rows = zip(found.txts, found.scores, found.boxes.tolist(), strict=True)
        return in_order([{"text": text, "score": float(sure), "box": _extent(box)} for text, sure, box in rows])


def _extent(corners: Sequence[Sequence[float]]) -> tuple[float, float, float, float]:
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def in_order(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As people read: rows downwards, each from left to right; a piece belongs to the row that its middle is in."""
    rows: list[list[dict[str, Any]]] = []
    for line in sorted(lines, key=lambda line: line["box"][1] + line["box"][3]):
        middle = (line["box"][1] + line["box"][3]) / 2
        if rows and middle < rows[-1][0]["box"][3]:
            rows[-1].append(line)
        else:
            rows.append([line])
    return [line for row in rows for line in sorted(row, key=lambda line: line["box"][0])]


def written(text: str) -> Any:
    """Black on white, uint8 [120, 640, 3]."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (640, 120), "white")
    ImageDraw.Draw(image).text((40, 30), text, "black", ImageFont.load_default(56))
    return np.asarray(image)


def asked(prompt: str) -> list[str]:
    """The quoted texts of a prompt."""
    return QUOTED.findall(prompt)


def plain(text: str) -> str:
    """Letters and digits alone, small: what two texts are compared by."""
    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def agreement(wanted: str, read: str) -> float:
    """1 where `wanted` stands in `read`, 0 where nothing of it does: 1 - edits / length for the best stretch."""
    wanted, read = plain(wanted), plain(read)
    if not wanted:
        return float(not read)
    row = [0] * (len(read) + 1)  # any start within what was read costs nothing, and any end likewise
    for i, letter in enumerate(wanted, 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(read, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (letter != other))
    return max(0.0, 1 - min(row) / len(wanted))


class Ocr(Guest):
    Config = OcrConfig
    name = "ocr"
    needs = (RAPIDOCR, Package("onnxruntime"))

    def __init__(self, config: OcrConfig):
        self._stages: tuple[Reading, ...] = ()

    @property
    def stages(self) -> tuple[Reading, ...]:
        if not self._stages:
            found = RAPIDOCR.require().verify()
            self._stages = (Reading({"reader": "rapidocr", "weights": found.sha256, "version": VERSION}),)
        return self._stages

    def summarise(self, pictures: Sequence[Picture], seen: Mapping[str, Observed]) -> Result:
        records = [self.record(picture, seen["text"][picture]) for picture in pictures]
        overall = score(records)
        texts = sum(bool(asked(picture.item.prompt)) for picture in pictures)
        silent = "No prompt asks for text: the score is the share of pictures without any."
        return Result(
            protocol=self.name,
            tier="lite",
            value=overall.score,
            interval=overall.interval,
            tasks=task_scores(records),
            overall=overall,
            facts={
                "pictures that should hold text": texts,
                **({"every text exact": sum(r.correct for r in records) / len(records)} if texts else {}),
            },
            notes=("Lite, not comparable.", *([silent] if not texts else [])),
            records=records,
        )

    def record(self, picture: Picture, said: Observation) -> ImageRecord:
        item, lines = picture.item, said["lines"]
        wanted, read = asked(item.prompt), " ".join(line["text"] for line in lines)
        values = [agreement(text, read) for text in wanted] or [float(not plain(read))]
        value = sum(values) / len(values)
        reason = f"reads '{read}'" if read else "no text is read"
        return ImageRecord(
            filename=str(picture.path),
            tag=item.tag,
            prompt=item.prompt,
            correct=value == 1,
            reason=""
            if value == 1
            else reason + (f", not '{', '.join(wanted)}'" if wanted else ", though none is asked for"),
            metadata=json.dumps({"text": wanted}, ensure_ascii=False),
            details=json.dumps(lines, ensure_ascii=False),
            item=item.id,
            k=picture.k,
            score=value,
            boxes=tuple(Box(label=line["text"], box=tuple(line["box"]), score=line["score"]) for line in lines),
            made=dict(picture.made),
        )

    def certify(self, items: Sequence[Item]) -> Certificate | None:
        return None
