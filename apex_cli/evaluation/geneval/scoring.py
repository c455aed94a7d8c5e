"""GenEval's verdict on one picture: the rules of `worlds/geneval_rules.py` under its thresholds, with a margin.

The margin is the least distance of a deciding number from its threshold, positive exactly where the picture is right:
the confidence of the n-th object of a class, the threshold minus the confidence of one too many, the probability of the
asked colour minus that of the best other one, and the share of the asked direction minus 0.5.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from apex_cli.config import Section
from apex_cli.evaluation.base import Item, Picture
from apex_cli.evaluation.geneval.seen import Seen
from apex_cli.evaluation.records import ImageRecord
from apex_cli.worlds.geneval_rules import Clause, Findings, admitted, examine


class Thresholds(Section):
    """The official ones; others change the name of the protocol."""

    threshold: float = Field(default=0.3, ge=0.1, lt=1)
    """An object counts strictly above this confidence."""
    counting_threshold: float = Field(default=0.9, ge=0.1, lt=1)
    """The same for the prompts that count."""
    max_overlap: float = Field(default=1.0, gt=0, le=1)
    """Of an object and a better one of its class, IoU; 1 is no suppression."""

    def of(self, tag: str) -> float:
        return self.counting_threshold if tag == "counting" else self.threshold


def judge(item: Item, objects: Sequence[Seen], limits: Thresholds) -> tuple[list[Seen], Findings, float]:
    """The objects that count, what the rules say of them, and the margin."""
    above = limits.of(item.tag)
    include, exclude = item.meta["include"], item.meta.get("exclude", ())
    counted = admitted(objects, above, max_overlap=limits.max_overlap)
    findings = examine(include, exclude, counted)
    rivals = admitted(objects, max_overlap=limits.max_overlap)
    margins = [*_margins(include, exclude, rivals, above), *findings.margins]
    return counted, findings, float(min(margins))


def _margins(
    include: Sequence[Clause], exclude: Sequence[Clause], ranked: Sequence[Seen], above: float
) -> Iterator[float | np.floating]:
    for clause in include:
        yield _nth(clause, ranked) - np.float32(above)
        if "color" in clause:
            tested = [seen for seen in ranked if seen.kind == clause["class"] and seen.colors][: clause["count"]]
            yield from (_clear(clause["color"], seen.colors) for seen in tested)
    for clause in exclude:
        yield np.float32(above) - _nth(clause, ranked)


def _nth(clause: Clause, ranked: Sequence[Seen]) -> np.float32:
    """Confidence of the `count`-th object of a class; 0 where there is none."""
    found = [seen.confidence for seen in ranked if seen.kind == clause["class"]]
    return np.float32(found[clause["count"] - 1] if len(found) >= clause["count"] else 0)


def _clear(color: str, colors: Mapping[str, float]) -> float:
    return colors[color] - max(chance for name, chance in colors.items() if name != color)


def record(picture: Picture, objects: Sequence[Seen], limits: Thresholds) -> ImageRecord:
    """The judgement in GenEval's own fields: `details` as the official script writes them."""
    item = picture.item
    counted, findings, margin = judge(item, objects, limits)
    return ImageRecord(
        filename=str(picture.path),
        tag=item.tag,
        prompt=item.prompt,
        correct=not findings.told,
        reason="; ".join(sentence for _, sentence in findings.told),
        failure=findings.told[0][0] if findings.told else "",
        metadata=json.dumps({"tag": item.tag, **item.meta, "prompt": item.prompt}),
        details=json.dumps(_details(counted)),
        item=item.id,
        k=picture.k,
        score=float(not findings.told),
        margin=margin,
        boxes=tuple(seen.record() for seen in counted),
        made=dict(picture.made),
    )


def _details(counted: Sequence[Seen]) -> dict[str, list[Any]]:
    """Class -> [x0, y0, x1, y1, confidence] of each."""
    rows: dict[str, list[Any]] = {}
    for seen in counted:
        rows.setdefault(seen.kind, []).append([*seen.box, seen.confidence])
    return rows
