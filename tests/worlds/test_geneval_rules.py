"""GenEval's rules: against a slow reading of them, at their limits, and on rendered scenes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apex_cli.worlds.geneval_rules import admitted, examine, iou, relations


@dataclass(frozen=True)
class Thing:
    kind: str
    box: tuple[float, float, float, float]
    confidence: float
    color: str = "red"


def at(kind="dog", x=50.0, y=50.0, w=10.0, h=10.0, confidence=0.95, color="red"):
    return Thing(kind, (x - w / 2, y - h / 2, x + w / 2, y + h / 2), confidence, color)


def slow_relations(a, b):
    """With the centres and extents written out, axis by axis."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = a, b
    x, y = (ax0 + ax1 - bx0 - bx1) / 2, (ay0 + ay1 - by0 - by1) / 2
    kept = [
        math.copysign(max(abs(o) - 0.1 * size, 0), o)
        for o, size in ((x, ax1 - ax0 + bx1 - bx0), (y, ay1 - ay0 + by1 - by0))
    ]
    if all(abs(o) < 1e-3 for o in kept):
        return set()
    dx, dy = (o / math.sqrt(x * x + y * y) for o in kept)
    rules = {"left of": dx < -0.5, "right of": dx > 0.5, "above": dy < -0.5, "below": dy > 0.5}
    return {name for name, holds in rules.items() if holds}


def slow_verdict(include, exclude, things):
    """Clause by clause, as a person reads the rules."""
    groups, right = [], True
    for clause in include:
        best = sorted((t for t in things if t.kind == clause["class"]), key=lambda t: -t.confidence)[: clause["count"]]
        good = len(best) == clause["count"]
        if good and "color" in clause:
            good = all(t.color == clause["color"] for t in best)
        if good and "position" in clause:
            relation, target = clause["position"]
            good = groups[target] is not None and all(
                relation in slow_relations(t.box, other.box) for t in best for other in groups[target]
            )
        groups.append(best if good else None)
        right = right and good
    return right and all(sum(t.kind == c["class"] for t in things) < c["count"] for c in exclude)


spot = st.integers(0, 60).map(float)
things = st.lists(
    st.builds(
        at,
        st.sampled_from(["dog", "cat"]),
        spot,
        spot,
        spot.map(lambda v: v + 1),
        spot.map(lambda v: v + 1),
        st.floats(0.31, 1),
        st.sampled_from(["red", "blue"]),
    ),
    max_size=6,
    unique_by=lambda t: t.confidence,
)
prompt = st.sampled_from(
    [
        ([{"class": "dog", "count": 1}], []),
        ([{"class": "dog", "count": 1}, {"class": "cat", "count": 1}], []),
        ([{"class": "dog", "count": 2}], [{"class": "dog", "count": 3}]),
        ([{"class": "dog", "count": 2, "color": "red"}], []),
        ([{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "blue"}], []),
        *(
            ([{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": (relation, 0)}], [])
            for relation in ("left of", "right of", "above", "below")
        ),
        ([{"class": "cat", "count": 2}, {"class": "dog", "count": 1, "position": ("above", 0)}], []),
    ]
)


@settings(max_examples=300, deadline=None)
@given(prompt, things)
def test_the_rules_are_those_of_a_slow_reading(asked, seen):
    include, exclude = asked
    assert (not examine(include, exclude, admitted(seen)).told) == slow_verdict(include, exclude, seen)


@settings(deadline=None)
@given(spot, spot, spot, spot)
def test_relations_are_those_of_a_slow_reading(x, y, w, h):
    a, b = at(x=x, y=y, w=w + 1, h=h + 1).box, at(x=30, y=30).box
    assert relations(a, b) == slow_relations(a, b)


def test_a_threshold_is_strict_in_float32():
    seen = [at(confidence=c) for c in (0.9, float(np.float32(0.9)), 0.901)]
    assert [t.confidence for t in admitted(seen, above=0.9)] == [0.901]
    assert admitted([at(confidence=float(np.float32(0.3)))], above=0.3) == []


def test_seventeen_of_a_kind_count_as_sixteen():
    seen = [at(confidence=0.5 + i / 100) for i in range(17)] + [at("cat")]
    kept = admitted(seen)
    assert len(kept) == 17 and seen[0] not in kept and seen[-1] in kept


def test_counting_is_exact():
    include, exclude = [{"class": "dog", "count": 3}], [{"class": "dog", "count": 4}]
    verdicts = [not examine(include, exclude, [at()] * n).told for n in range(6)]
    assert verdicts == [False, False, False, True, False, False]
    assert examine(include, exclude, [at()] * 5).told == [("count", "asked for 3 dogs, found 5")]


def test_every_clause_has_to_hold():
    include = [{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "blue"}]
    told = examine(include, [], [at("dog", color="blue"), at("cat", color="blue")]).told
    assert told == [("color", "asked for a red dog, found a blue one")]


def test_a_relation_to_what_is_wrong_is_not_tested():
    include = [{"class": "cat", "count": 1, "color": "red"}, {"class": "dog", "count": 1, "position": ("above", 0)}]
    findings = examine(include, [], [at("cat", color="blue"), at("dog", y=0)])
    assert [kind for kind, _ in findings.told] == ["color", "position"] and findings.margins == []
    assert "no cat for the dog to be above" in findings.told[1][1]


def test_boxes_include_their_last_pixel():
    assert iou((0, 0, 9, 9), (0, 0, 9, 9)) == 1
    assert iou((0, 0, 9, 9), (9, 0, 18, 9)) == pytest.approx(10 / 190)
    assert iou((0, 0, 9, 9), (10, 0, 18, 9)) == 0


def test_suppression_is_off_unless_asked_for():
    seen = [at(confidence=0.9), at(confidence=0.8), at(x=90, confidence=0.7)]
    assert len(admitted(seen)) == 3
    assert [t.confidence for t in admitted(seen, max_overlap=0.5)] == [0.9, 0.7]
