"""GenEval's rules on the detections of one image (djghosh13/geneval), with a strict variant and graded numbers.

An offset o between the centres of two boxes counts only beyond a margin,

    o' = sign(o) max(|o| - 0.1 (size_a + size_b), 0)    per axis,

and a relation holds where o' / |o| exceeds 0.5 on its axis. A diagonal placement therefore satisfies two relations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from apex_cli.worlds.shapes.detector import UNKNOWN, Detection
from apex_cli.worlds.shapes.grammar import Prompt
from apex_cli.worlds.shapes.vocabulary import PLURALS, article

SIZE_MARGIN = 0.1
AXIS_SHARE = 0.5


@dataclass(frozen=True)
class Verdict:
    """The judgement of one image, with graded numbers that move before correctness does.

    `reason` is empty when correct, and so is `failure`, the kind of the first reason: "missing", "color", "position",
    "count" or "extra". `confidence` and `color_distance` are means over all detections (0 and None where
    nothing was found). `position_margin` is the least excess of an asked axis over `AXIS_SHARE`, negative where the
    relation fails; None without a testable relation.
    """

    correct: bool
    reason: str
    confidence: float
    color_distance: float | None
    position_margin: float | None
    failure: str = ""


def judge(prompt: Prompt, detections: Sequence[Detection], strict: bool = True) -> Verdict:
    """Whether the detections satisfy the prompt; `strict` also refuses extra objects and unknown kinds or colours."""
    ranked = sorted(detections, key=lambda detection: -detection.confidence)
    reasons: list[tuple[str, str]] = []
    margins: list[float] = []
    groups: list[list[Detection] | None] = []
    for item in prompt.include:
        found = [d for d in ranked if d.kind == item["class"]]
        failure, reason = "missing", _missing(item, found)
        if not reason:
            failure, reason = "color", _wrong_color(item, found)
        if not reason:
            failure, reason = "position", _wrong_place(item, found, prompt, groups, margins)
        groups.append(None if reason else found[: item["count"]])
        reasons.append((failure, reason))
    reasons += [("count", _too_many(item, ranked)) for item in prompt.exclude]
    if strict and not any(reason for _, reason in reasons):
        reasons.append(("extra", _surplus(prompt, ranked)))
    told = [(failure, reason) for failure, reason in reasons if reason]
    return Verdict(
        correct=not told,
        reason="; ".join(reason for _, reason in told),
        failure=told[0][0] if told else "",
        confidence=fmean(d.confidence for d in ranked) if ranked else 0.0,
        color_distance=fmean(d.color_distance for d in ranked) if ranked else None,
        position_margin=min(margins, default=None),
    )


def relative_position(subject: Detection, anchor: Detection) -> dict[str, float]:
    """The share of each direction in the offset from anchor to subject; a relation holds above `AXIS_SHARE`."""
    boxes = np.array([subject.box, anchor.box]).reshape(2, 2, 2)
    offset = np.subtract(*boxes.mean(axis=1))
    sizes = (boxes[:, 1] - boxes[:, 0]).sum(axis=0)
    counted = np.maximum(np.abs(offset) - SIZE_MARGIN * sizes, 0) * np.sign(offset)
    if not counted.any():
        return {"left of": 0.0, "right of": 0.0, "above": 0.0, "below": 0.0}
    dx, dy = (counted / np.linalg.norm(offset)).tolist()
    return {"left of": -dx, "right of": dx, "above": -dy, "below": dy}


def relations(subject: Detection, anchor: Detection) -> set[str]:
    """The relations in which the subject stands to the anchor: none, one or two."""
    return {relation for relation, share in relative_position(subject, anchor).items() if share > AXIS_SHARE}


def _missing(item: dict[str, Any], found: list[Detection]) -> str:
    if len(found) >= item["count"]:
        return ""
    return f"asked for {_amount(item['class'], item['count'])}, found {_quantity(len(found))}"


def _wrong_color(item: dict[str, Any], found: list[Detection]) -> str:
    """Only the most confident `count` objects are tested, as in GenEval."""
    seen = [d.color for d in found[: item["count"]]]
    if "color" not in item or seen.count(item["color"]) >= item["count"]:
        return ""
    return f"asked for {article(item['color'] + ' ' + item['class'])}, found {article(seen[0] + ' one')}"


def _wrong_place(
    item: dict[str, Any],
    found: list[Detection],
    prompt: Prompt,
    groups: list[list[Detection] | None],
    margins: list[float],
) -> str:
    """Every pair of subject and anchor has to stand in the relation; the tested pairs append to `margins`."""
    if "position" not in item:
        return ""
    relation, target = item["position"]
    anchor = prompt.include[target]["class"]
    if groups[target] is None:
        return f"no {anchor} for the {item['class']} to be {relation}"
    pairs = [(subject, other) for subject in found[: item["count"]] for other in groups[target]]
    margins += [relative_position(subject, other)[relation] - AXIS_SHARE for subject, other in pairs]
    if all(relation in relations(subject, other) for subject, other in pairs):
        return ""
    seen = " and ".join(sorted(set().union(*(relations(*pair) for pair in pairs))))
    actual = f"{seen} it" if seen else "in no clear direction"
    return f"asked for the {item['class']} {relation} the {anchor}, but it is {actual}"


def _too_many(item: dict[str, Any], ranked: list[Detection]) -> str:
    found = sum(d.kind == item["class"] for d in ranked)
    return f"asked for {_amount(item['class'], item['count'] - 1)}, found {found}" if found >= item["count"] else ""


def _surplus(prompt: Prompt, ranked: list[Detection]) -> str:
    if any(d.kind == UNKNOWN for d in ranked):
        return "an object has no known shape"
    nameless = [d.kind for d in ranked if d.color == UNKNOWN]
    if nameless:
        return f"the {nameless[0]} has no known color"
    asked = sum(item["count"] for item in prompt.include)
    return f"asked for {asked} in all, found {len(ranked)} objects" if len(ranked) > asked else ""


def _amount(kind: str, count: int) -> str:
    return article(kind) if count == 1 else f"{count} {PLURALS[kind]}"


def _quantity(count: int) -> str:
    return "none" if count == 0 else str(count)
