"""The shapes world under GenEval's rules (`worlds/geneval_rules.py`), with a strict variant and graded numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from apex_cli.worlds.geneval_rules import admitted, examine
from apex_cli.worlds.shapes.detector import UNKNOWN, Detection
from apex_cli.worlds.shapes.grammar import Prompt


@dataclass(frozen=True)
class Verdict:
    """The judgement of one image, with graded numbers that move before correctness does.

    `reason` is empty when correct, and so is `failure`, the kind of the first reason: "missing", "color", "position",
    "count" or "extra". `confidence` and `color_distance` are means over all detections (0 and None where
    nothing was found). `position_margin` is the least excess of an asked axis over 0.5, negative where the relation
    fails; None without a testable relation.
    """

    correct: bool
    reason: str
    confidence: float
    color_distance: float | None
    position_margin: float | None
    failure: str = ""


def judge(prompt: Prompt, detections: Sequence[Detection], strict: bool = True) -> Verdict:
    """Whether the detections satisfy the prompt; `strict` also refuses extra objects and unknown kinds or colours."""
    ranked = admitted(detections)
    findings = examine(prompt.include, prompt.exclude, ranked)
    told = findings.told or [("extra", reason) for reason in (_surplus(prompt, ranked),) if strict and reason]
    return Verdict(
        correct=not told,
        reason="; ".join(reason for _, reason in told),
        failure=told[0][0] if told else "",
        confidence=fmean(d.confidence for d in detections) if detections else 0.0,
        color_distance=fmean(d.color_distance for d in detections) if detections else None,
        position_margin=min(findings.margins, default=None),
    )


def _surplus(prompt: Prompt, ranked: Sequence[Detection]) -> str:
    if any(d.kind == UNKNOWN for d in ranked):
        return "an object has no known shape"
    nameless = [d.kind for d in ranked if d.color == UNKNOWN]
    if nameless:
        return f"the {nameless[0]} has no known color"
    asked = sum(item["count"] for item in prompt.include)
    return f"asked for {asked} in all, found {len(ranked)} objects" if len(ranked) > asked else ""
