"""GenEval's 553 prompts, drawn again from its rules: 80 class names of COCO and one numpy seed.

`evaluation_metadata()` is to the byte the file of that name in djghosh13/geneval (commit af4902f), seed 43. Another
seed gives a fresh suite of the same distribution.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

SHA256 = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
"""Of the official metadata, one JSON object a line."""
SEED, DRAWS = 43, 100

CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "computer mouse", "tv remote", "computer keyboard", "cell phone", "microwave", "oven", "toaster",
    "sink", "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
NUMBERS = {2: "two", 3: "three", 4: "four"}

Draw = Callable[[np.random.Generator], dict[str, Any]]


def suite(seed: int = SEED) -> list[dict[str, Any]]:
    """All prompts with their demands, in the official order; what was drawn twice stands once."""
    rng = np.random.default_rng(seed)
    found = [_single(CLASSES[i]) for i in rng.choice(len(CLASSES), len(CLASSES), replace=False)]
    for draw in (_two_object, _counting, _colors, _position, _color_attr):
        found += [draw(rng) for _ in range(DRAWS)]
    return [json.loads(line) for line in dict.fromkeys(map(json.dumps, found))]


def evaluation_metadata(seed: int = SEED) -> str:
    """`evaluation_metadata.jsonl`."""
    return "".join(json.dumps(row) + "\n" for row in suite(seed))


@cache
def prompts() -> tuple[str, ...]:
    """The official prompts; an `AssertionError` if they were not those."""
    assert hashlib.sha256(evaluation_metadata().encode()).hexdigest() == SHA256, "these are not GenEval's prompts"
    return tuple(row["prompt"] for row in suite())


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _item(kind: str, count: int = 1, **demands: Any) -> dict[str, Any]:
    return {"class": kind, "count": count, **demands}


def _row(tag: str, include: list[dict[str, Any]], text: str, **more: Any) -> dict[str, Any]:
    return {"tag": tag, "include": include, **more, "prompt": f"a photo of {text}"}


def _single(kind: str) -> dict[str, Any]:
    return _row("single_object", [_item(kind)], _article(kind))


def _two(rng: np.random.Generator) -> tuple[str, str]:
    first, second = rng.choice(len(CLASSES), size=2, replace=False)
    return CLASSES[first], CLASSES[second]


def _two_object(rng: np.random.Generator) -> dict[str, Any]:
    first, second = _two(rng)
    return _row("two_object", [_item(first), _item(second)], f"{_article(first)} and {_article(second)}")


def _counting(rng: np.random.Generator) -> dict[str, Any]:
    kind, count = CLASSES[rng.choice(len(CLASSES))], int(rng.integers(2, 4, endpoint=True))
    plural = kind + ("es" if kind.endswith("s") else "s")  # also "sheeps" and "knifes", as there
    return _row("counting", [_item(kind, count)], f"{NUMBERS[count]} {plural}", exclude=[_item(kind, count + 1)])


def _colors(rng: np.random.Generator) -> dict[str, Any]:
    kind = CLASSES[rng.choice(len(CLASSES) - 1) + 1]  # no coloured person, which comes first
    color = COLORS[rng.choice(len(COLORS))]
    return _row("colors", [_item(kind, color=color)], f"{_article(color)} {kind}")


def _position(rng: np.random.Generator) -> dict[str, Any]:
    subject, anchor = _two(rng)
    relation = RELATIONS[rng.choice(len(RELATIONS))]
    include = [_item(anchor), _item(subject, position=(relation, 0))]
    return _row("position", include, f"{_article(subject)} {relation} {_article(anchor)}")


def _color_attr(rng: np.random.Generator) -> dict[str, Any]:
    kinds = [CLASSES[i + 1] for i in rng.choice(len(CLASSES) - 1, size=2, replace=False)]
    hues = [COLORS[i] for i in rng.choice(len(COLORS), size=2, replace=False)]
    include = [_item(kind, color=hue) for kind, hue in zip(kinds, hues, strict=True)]
    text = " and ".join(f"{_article(hue)} {kind}" for kind, hue in zip(kinds, hues, strict=True))
    return _row("color_attr", include, text)
