"""GenEval's rules on the detections of one image (djghosh13/geneval, commit af4902f), for any detector.

An offset o between the centres of two boxes counts only beyond a margin,

    o' = sign(o) max(|o| - 0.1 (size_a + size_b), 0)    per axis,

and a relation holds where o' / |o| exceeds 0.5 on its axis. A diagonal placement therefore satisfies two relations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Protocol, TypeVar

import numpy as np

from apex_cli.worlds.shapes.vocabulary import article, plural

MOST_OF_A_KIND = 16
SIZE_MARGIN = 0.1
AXIS_SHARE = 0.5
CLEAR = 1e-3  # pixels; an offset below this on both axes has no direction

Box = tuple[float, float, float, float]
"""(x0, y0, x1, y1) in pixels."""
Clause = Mapping[str, Any]
"""GenEval's JSON: {"class", "count", "color"?, "position"?: (relation, index of the anchor's clause)}."""


class Thing(Protocol):
    """What a detector says about one object. `color` is read only where a clause names one."""

    @property
    def kind(self) -> str: ...
    @property
    def box(self) -> Box: ...
    @property
    def confidence(self) -> float: ...
    @property
    def color(self) -> str: ...


T = TypeVar("T", bound=Thing)
_Group = tuple[str, list[Thing]]
"""A clause's class, and the things that satisfy it; none where it fails."""


@dataclass
class Findings:
    """`told`: what fails, as (kind, sentence), the kind being "missing", "color", "position" or "count"; empty where
    the image is correct. `margins`: for each tested pair of subject and anchor, the excess of the asked axis over
    `AXIS_SHARE`, negative where the relation fails."""

    told: list[tuple[str, str]] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)


def admitted(
    things: Iterable[T], above: float = -math.inf, most: int = MOST_OF_A_KIND, max_overlap: float = 1.0
) -> list[T]:
    """The things that count, the most confident first: strictly `above` a threshold (compared in float32, as there),
    at most `most` of a kind and, below 1, none that overlaps a better one of its kind by `max_overlap` or more."""
    kinds: dict[str, list[T]] = {}
    for thing in sorted(things, key=_doubt):
        if np.float32(thing.confidence) > np.float32(above):
            kinds.setdefault(thing.kind, []).append(thing)
    return sorted((thing for kind in kinds.values() for thing in _apart(kind[:most], max_overlap)), key=_doubt)


def _doubt(thing: Thing) -> float:
    return -thing.confidence


def _apart(ranked: Sequence[T], max_overlap: float) -> list[T]:
    kept: list[T] = []
    for thing in ranked:
        if max_overlap == 1 or all(iou(thing.box, better.box) < max_overlap for better in kept):
            kept.append(thing)
    return kept


def iou(a: Box, b: Box) -> float:
    """Intersection over union of boxes whose last pixel is part of them: every side is one longer."""
    union = _area(a) + _area(b) - (shared := _area((*map(max, a[:2], b[:2]), *map(min, a[2:], b[2:]))))
    return shared / union if union else 0.0


def _area(box: Sequence[float]) -> float:
    return max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0)


def examine(include: Sequence[Clause], exclude: Sequence[Clause], ranked: Sequence[Thing]) -> Findings:
    """Hold things, the most confident first, against a prompt: every clause of `include` and none of `exclude`."""
    findings = Findings()
    groups: list[_Group] = []
    for clause in include:
        found = [thing for thing in ranked if thing.kind == clause["class"]]
        told = (
            [("missing", reason) for reason in _missing(clause, found)]
            or [("color", reason) for reason in _wrong_color(clause, found)]
            or [("position", reason) for reason in _wrong_place(clause, found, groups, findings)]
        )
        groups.append((clause["class"], [] if told else found[: clause["count"]]))
        findings.told += told
    findings.told += [("count", reason) for clause in exclude for reason in _too_many(clause, ranked)]
    return findings


def relative_position(subject: Box, anchor: Box) -> dict[str, float]:
    """The share of each direction in the offset from anchor to subject; a relation holds above `AXIS_SHARE`."""
    boxes = np.array([subject, anchor], float).reshape(2, 2, 2)
    offset = np.subtract(*boxes.mean(axis=1))
    sizes = np.abs(boxes[:, 1] - boxes[:, 0]).sum(axis=0)
    counted = np.maximum(np.abs(offset) - SIZE_MARGIN * sizes, 0) * np.sign(offset)
    if (np.abs(counted) < CLEAR).all():
        return {"left of": 0.0, "right of": 0.0, "above": 0.0, "below": 0.0}
    dx, dy = (counted / np.linalg.norm(offset)).tolist()
    return {"left of": -dx, "right of": dx, "above": -dy, "below": dy}


def relations(subject: Box, anchor: Box) -> set[str]:
    """The relations in which the subject stands to the anchor: none, one or two."""
    return {relation for relation, share in relative_position(subject, anchor).items() if share > AXIS_SHARE}


def _missing(clause: Clause, found: Sequence[Thing]) -> Iterator[str]:
    if len(found) < clause["count"]:
        yield f"asked for {_amount(clause['class'], clause['count'])}, found {len(found) or 'none'}"


def _wrong_color(clause: Clause, found: Sequence[Thing]) -> Iterator[str]:
    """Only the most confident `count` things are tested."""
    if "color" not in clause:
        return
    seen = [thing.color for thing in found[: clause["count"]]]
    if seen.count(clause["color"]) < clause["count"]:
        yield f"asked for {article(clause['color'] + ' ' + clause['class'])}, found {article(seen[0] + ' one')}"


def _wrong_place(clause: Clause, found: Sequence[Thing], groups: Sequence[_Group], findings: Findings) -> Iterator[str]:
    """Every pair of subject and anchor has to stand in the relation; the tested pairs add their margins."""
    if "position" not in clause:
        return
    relation, target = clause["position"]
    name, anchors = groups[target]
    if not anchors:
        yield f"no {name} for the {clause['class']} to be {relation}"
        return
    pairs = [(subject.box, anchor.box) for subject, anchor in product(found[: clause["count"]], anchors)]
    findings.margins += [relative_position(*pair)[relation] - AXIS_SHARE for pair in pairs]
    if all(relation in relations(*pair) for pair in pairs):
        return
    seen = " and ".join(sorted(set().union(*(relations(*pair) for pair in pairs))))
    actual = f"{seen} it" if seen else "in no clear direction"
    yield f"asked for the {clause['class']} {relation} the {name}, but it is {actual}"


def _too_many(clause: Clause, ranked: Sequence[Thing]) -> Iterator[str]:
    found = sum(thing.kind == clause["class"] for thing in ranked)
    if found >= clause["count"]:
        yield f"asked for {_amount(clause['class'], clause['count'] - 1)}, found {found}"


def _amount(kind: str, count: int) -> str:
    return article(kind) if count == 1 else f"{count} {plural(kind)}"
