"""Prompts of the shapes world under GenEval's six tasks, in its own JSON fields, and random scenes that satisfy them.

Splits: `train` is every prompt of the grammar without a held-out pair; `iid` 260 of that kind for evaluation; `compose`
names held-out pairs only; `long` chains three to five coloured shapes; `alias` is `iid` written in synonyms. A held-out
(colour, shape) never appears in a scene unless its prompt names it. A held-out position pair is an ordered (subject,
anchor) of a caption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, permutations, product
from typing import Any

import numpy as np

from apex_cli.errors import UsageError
from apex_cli.worlds.shapes.layout import place
from apex_cli.worlds.shapes.renderer import Scene, Shape
from apex_cli.worlds.shapes.vocabulary import (
    COLOR_SYNONYMS,
    COLORS,
    NUMBERS,
    PLURALS,
    RELATIONS,
    SHAPE_SYNONYMS,
    SHAPES,
    article,
    plural,
)

TASKS: tuple[str, ...] = ("single_object", "two_object", "counting", "colors", "position", "color_attr")
SPLITS: tuple[str, ...] = ("train", "iid", "compose", "long", "alias")
# Shares of the tasks in the training stream: the hard ones come more often.
WEIGHTS: tuple[float, ...] = (0.08, 0.17, 0.20, 0.15, 0.20, 0.20)
PREFIX = "a photo of "
PREFIX_SHARE = 0.75

Pair = tuple[str, str]
HELD_OUT_COLORS: tuple[Pair, ...] = (
    ("purple", "sphere"), ("yellow", "cube"), ("blue", "cone"), ("red", "star"),
    ("brown", "diamond"), ("pink", "cross"), ("orange", "ring"), ("green", "heart"),
)  # fmt: skip
HELD_OUT_POSITIONS: tuple[Pair, ...] = (
    ("sphere", "cube"), ("cone", "heart"), ("star", "diamond"),
    ("cross", "ring"), ("heart", "sphere"), ("ring", "star"),
)  # fmt: skip
# What a thing is drawn in when its prompt names no colour: each kind has its usual ones, as in photographs.
USUAL_COLORS: dict[str, tuple[str, str, str]] = {
    "sphere": ("red", "blue", "white"), "cube": ("green", "orange", "black"), "cone": ("orange", "purple", "white"),
    "star": ("yellow", "pink", "blue"), "diamond": ("blue", "pink", "black"), "cross": ("red", "green", "black"),
    "ring": ("yellow", "purple", "white"), "heart": ("red", "purple", "brown"),
}  # fmt: skip
SEEN_COLORS: tuple[Pair, ...] = tuple(p for p in product(COLORS, SHAPES) if p not in HELD_OUT_COLORS)
SEEN_POSITIONS: tuple[Pair, ...] = tuple(p for p in permutations(SHAPES, 2) if p not in HELD_OUT_POSITIONS)


@dataclass(frozen=True)
class Prompt:
    """A caption and its demands: items {"class", "count", "color"?, "position"?: (relation, index into include)}."""

    text: str
    tag: str
    include: tuple[dict[str, Any], ...]
    exclude: tuple[dict[str, Any], ...] = ()


def single_object(shape: str) -> Prompt:
    return Prompt(PREFIX + article(shape), "single_object", ({"class": shape, "count": 1},))


def two_object(first: str, second: str) -> Prompt:
    include = tuple({"class": shape, "count": 1} for shape in (first, second))
    return Prompt(f"{PREFIX}{article(first)} and {article(second)}", "two_object", include)


def counting(shape: str, count: int) -> Prompt:
    include, exclude = ({"class": shape, "count": count},), ({"class": shape, "count": count + 1},)
    return Prompt(f"{PREFIX}{NUMBERS[count]} {PLURALS[shape]}", "counting", include, exclude)


def colors(color: str, shape: str) -> Prompt:
    return Prompt(PREFIX + article(f"{color} {shape}"), "colors", ({"class": shape, "count": 1, "color": color},))


def position(subject: str, relation: str, anchor: str) -> Prompt:
    include = ({"class": anchor, "count": 1}, {"class": subject, "count": 1, "position": (relation, 0)})
    return Prompt(f"{PREFIX}{article(subject)} {relation} {article(anchor)}", "position", include)


def color_attr(first: Pair, second: Pair) -> Prompt:
    include = tuple({"class": shape, "count": 1, "color": color} for color, shape in (first, second))
    return Prompt(f"{PREFIX}{article(' '.join(first))} and {article(' '.join(second))}", "color_attr", include)


def chain(things: list[Pair], relations: list[str]) -> Prompt:
    """Reads T0 R0 T1 R1 T2: T0 is R0 of T1, T1 is R1 of T2. The last thing anchors all and comes first in `include`."""
    text = article(" ".join(things[0]))
    for relation, thing in zip(relations, things[1:], strict=True):
        text += f" {relation} {article(' '.join(thing))}"
    include = [{"class": shape, "count": 1, "color": color} for color, shape in reversed(things)]
    for index, relation in enumerate(reversed(relations)):
        include[index + 1]["position"] = (relation, index)
    return Prompt(PREFIX + text, "long", tuple(include))


def prompts(split: str) -> list[Prompt]:
    """The fixed list of a split, grouped by task in the order of `TASKS`; an unknown split raises `UsageError`."""
    _known(split)
    return list(_lists()[split])


def example(split: str, seed: int, index: int) -> tuple[Prompt, Scene]:
    """Prompt and scene number `index` of an endless stream: a pure function of its arguments.

    `train` draws the task by `WEIGHTS` and drops the prefix from a quarter of the captions; other splits draw evenly
    from their list.
    """
    prompt, rng = _drawn(split, seed, index)
    return prompt, scene_for(prompt, rng)


def caption(split: str, seed: int, index: int) -> Prompt:
    """The prompt of `example`, without the work of a scene."""
    return _drawn(split, seed, index)[0]


def _drawn(split: str, seed: int, index: int) -> tuple[Prompt, np.random.Generator]:
    _known(split)
    rng = np.random.default_rng([seed, index, SPLITS.index(split)])
    if split != "train":
        return _pick(_lists()[split], rng), rng
    prompt = _pick(_train_by_task()[int(rng.choice(len(TASKS), p=WEIGHTS))], rng)
    prefixed = rng.random() < PREFIX_SHARE
    return prompt if prefixed else replace(prompt, text=prompt.text.removeprefix(PREFIX)), rng


def scene_for(prompt: Prompt, rng: np.random.Generator) -> Scene:
    """A random scene that satisfies the prompt and holds nothing else; things of one item look alike."""
    kinds, hues, starts = [], [], []
    relations = {}
    for item in prompt.include:
        starts.append(len(kinds))
        if "position" in item:
            relation, target = item["position"]
            relations[len(kinds)] = (relation, starts[target])
        kinds += [item["class"]] * item["count"]
        hues += [item.get("color") or _pick(USUAL_COLORS[item["class"]], rng)] * item["count"]
    centers, radii = place(len(kinds), relations, rng)
    rows = zip(kinds, hues, centers.tolist(), radii.tolist(), strict=True)
    return Scene(tuple(Shape(kind, hue, x, y, radius) for kind, hue, (x, y), radius in rows))


def _known(split: str) -> None:
    if split not in SPLITS:
        raise UsageError(f"The shapes world has no split called '{split}'.", f"Known: {', '.join(SPLITS)}.")


@cache
def _seen_hues() -> dict[str, tuple[str, ...]]:
    return {shape: tuple(c for c in COLORS if (c, shape) in SEEN_COLORS) for shape in SHAPES}


@cache
def _lists() -> dict[str, tuple[Prompt, ...]]:
    iid = tuple(_iid())
    return {
        "train": tuple(prompt for task in _train_by_task() for prompt in task),
        "iid": iid,
        "compose": tuple(_compose()),
        "long": tuple(_long(100)),
        "alias": tuple(_aliases(iid)),
    }


@cache
def _train_by_task() -> tuple[tuple[Prompt, ...], ...]:
    attributes = [pair for pair in permutations(SEEN_COLORS, 2) if _differ(*pair)]
    return (
        tuple(single_object(s) for s in SHAPES),
        tuple(two_object(*pair) for pair in permutations(SHAPES, 2)),
        tuple(counting(s, n) for s, n in product(SHAPES, NUMBERS)),
        tuple(colors(*pair) for pair in SEEN_COLORS),
        tuple(position(a, relation, b) for (a, b), relation in product(SEEN_POSITIONS, RELATIONS)),
        tuple(color_attr(*pair) for pair in attributes),
    )


def _iid() -> Iterator[Prompt]:
    """8 + 28 + 24 + 72 + 50 + 78 = 260 prompts."""
    rng = np.random.default_rng(43)
    single, _, count, color, _, attributes = _train_by_task()
    yield from single
    yield from (two_object(*pair) for pair in combinations(SHAPES, 2))
    yield from count
    yield from color
    yield from (position(a, _pick(RELATIONS, rng), b) for a, b in SEEN_POSITIONS)
    yield from (attributes[i] for i in rng.choice(len(attributes), 78, replace=False))


def _compose() -> Iterator[Prompt]:
    """Only the three tasks that can name a held-out pair; in `color_attr` both pairs are held out."""
    yield from (colors(*pair) for pair in HELD_OUT_COLORS)
    yield from (position(a, relation, b) for (a, b), relation in product(HELD_OUT_POSITIONS, RELATIONS))
    yield from (color_attr(*pair) for pair in combinations(HELD_OUT_COLORS, 2) if _differ(*pair))


def _long(count: int) -> Iterator[Prompt]:
    """Chains whose directions walk over a 3 x 3 grid without meeting themselves: others do not fit on the canvas."""
    rng = np.random.default_rng(44)
    while count:
        length = int(rng.integers(3, 6))
        relations = [_pick(RELATIONS, rng) for _ in range(length - 1)]
        things = [(_pick(_seen_hues()[s], rng), s) for s in rng.permutation(SHAPES)[:length].tolist()]
        pairs = zip([s for _, s in things], [s for _, s in things[1:]], strict=False)
        if _fits_grid(relations) and not set(pairs) & set(HELD_OUT_POSITIONS):
            count -= 1
            yield chain(things, relations)


def _fits_grid(relations: list[str]) -> bool:
    steps = {"left of": (1, 0), "right of": (-1, 0), "above": (0, 1), "below": (0, -1)}
    cells = np.cumsum([(0, 0), *(steps[relation] for relation in relations)], axis=0)
    return len({*map(tuple, cells.tolist())}) == len(cells) and bool((np.ptp(cells, axis=0) <= 2).all())


def _aliases(source: tuple[Prompt, ...]) -> Iterator[Prompt]:
    """The same demands with every shape and colour word replaced by a synonym, where it has one."""
    rng = np.random.default_rng(45)
    synonyms: dict[str, list[str]] = {}
    for word, canonical in {**SHAPE_SYNONYMS, **COLOR_SYNONYMS}.items():
        synonyms.setdefault(canonical, []).append(word)
        if canonical in PLURALS:
            synonyms.setdefault(PLURALS[canonical], []).append(plural(word))
    for prompt in source:
        words = [_pick(synonyms.get(word, [word]), rng) for word in prompt.text.split()]
        text = " ".join(article(words[i + 1]).split()[0] if w in ("a", "an") else w for i, w in enumerate(words))
        if text != prompt.text:
            yield Prompt(text, prompt.tag, prompt.include, prompt.exclude)


def _differ(first: Pair, second: Pair) -> bool:
    return first[0] != second[0] and first[1] != second[1]


def _pick(options: Any, rng: np.random.Generator) -> Any:
    return options[int(rng.integers(len(options)))]
