"""The exact detector and GenEval's rules: ceiling, floor, and what each rule accepts."""

from __future__ import annotations

from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from apex_cli.worlds.geneval_rules import relations
from apex_cli.worlds.shapes import grammar
from apex_cli.worlds.shapes.detector import UNKNOWN, Detection, detect
from apex_cli.worlds.shapes.renderer import Scene, Shape, render
from apex_cli.worlds.shapes.scoring import judge
from apex_cli.worlds.shapes.vocabulary import BACKGROUND, COLORS, SHAPES

PROMPTS = grammar.prompts("iid")


@pytest.fixture(scope="module")
def images() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [render(grammar.scene_for(prompt, rng)) for prompt in PROMPTS]


@pytest.fixture(scope="module")
def detections(images: list[np.ndarray]) -> list[list[Detection]]:
    return [detect(image) for image in images]


def overall(found: list[list[Detection]], strict: bool = True, prompts: list[grammar.Prompt] = PROMPTS) -> float:
    """Mean over tasks of the share of correct images."""
    verdicts: dict[str, list[bool]] = {}
    for prompt, seen in zip(prompts, found, strict=True):
        verdicts.setdefault(prompt.tag, []).append(judge(prompt, seen, strict).correct)
    return fmean(fmean(task) for task in verdicts.values())


def test_ceiling(detections: list[list[Detection]]) -> None:
    assert overall(detections) >= 0.995


def test_shuffled_floor(detections: list[list[Detection]]) -> None:
    order = np.random.default_rng(2).permutation(len(detections))
    shuffled = [detections[index] for index in order]
    assert overall(shuffled) <= overall(shuffled, strict=False) <= 0.10


def test_blur_lowers_the_score(images: list[np.ndarray]) -> None:
    blurred = [detect(ndimage.gaussian_filter(image, (2, 2, 0))) for image in images[::4]]
    assert overall(blurred, prompts=PROMPTS[::4]) < 0.9


def test_long_and_compose_reach_the_ceiling() -> None:
    rng = np.random.default_rng(4)
    prompts = grammar.prompts("long")[:30] + grammar.prompts("compose")[::3]
    assert all(judge(prompt, detect(render(grammar.scene_for(prompt, rng)))).correct for prompt in prompts)


def test_noise_and_blank_images_give_no_detection() -> None:
    rng = np.random.default_rng(5)
    noise = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(10)]
    assert not any(detect(image) for image in noise)
    assert detect(np.full((64, 64, 3), 77, np.uint8)) == []


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("kind", SHAPES)
def test_every_pair_is_named_and_placed(kind: str, color: str) -> None:
    (found,) = detect(render(Scene((Shape(kind, color, 0.4, 0.6, 0.14),))))
    assert (found.kind, found.color) == (kind, color)
    x0, y0, x1, y1 = found.box
    assert abs((x0 + x1) / 128 - 0.4) < 0.02 and abs((y0 + y1) / 128 - 0.6) < 0.03
    assert found.confidence > 0.8 and found.color_distance < 5


def test_touching_colors_are_split() -> None:
    scene = Scene((Shape("cube", "red", 0.36, 0.5, 0.17), Shape("cube", "blue", 0.62, 0.5, 0.17)))
    assert {(d.kind, d.color) for d in detect(render(scene))} == {("cube", "red"), ("cube", "blue")}


def test_other_forms_and_colors_are_unknown() -> None:
    image = np.full((64, 64, 3), BACKGROUND, np.uint8)
    image[10:14, 8:56] = COLORS["red"]
    image[30:50, 20:40] = (0, 200, 200)
    bar, square = sorted(detect(image), key=lambda d: d.box[1])
    assert (bar.kind, bar.color) == (UNKNOWN, "red")
    assert (square.kind, square.color) == ("cube", UNKNOWN)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_smooth_image_is_survived(seed: int) -> None:
    field = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(32, 32, 3)), (3, 3, 0))
    image = np.clip(128 + 900 * field, 0, 255).astype(np.uint8)
    for found in detect(image):
        x0, y0, x1, y1 = found.box
        assert 0 <= x0 < x1 <= 32 and 0 <= y0 < y1 <= 32 and 0 <= found.confidence <= 1


def thing(
    kind: str, color: str = "red", x: float = 32, y: float = 32, side: float = 16, confidence: float = 0.9
) -> Detection:
    half = side / 2
    return Detection(kind, color, (x - half, y - half, x + half, y + half), confidence, 1.0)


MIRROR = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
spot = st.tuples(st.floats(0, 64), st.floats(0, 64), st.floats(4, 30))


def box(x: float = 32, y: float = 32, side: float = 16) -> tuple[float, float, float, float]:
    return thing("cube", x=x, y=y, side=side).box


@given(spot, spot)
def test_relations_mirror_when_roles_swap(a: tuple[float, float, float], b: tuple[float, float, float]) -> None:
    first, second = box(*a), box(*b)
    assert relations(first, second) == {MIRROR[relation] for relation in relations(second, first)}
    assert len(relations(first, second)) <= 2


def test_a_diagonal_satisfies_two_relations_and_one_place_none() -> None:
    assert relations(box(x=10, y=10), box(x=50, y=50)) == {"left of", "above"}
    assert relations(box(), box()) == set()
    assert relations(box(x=33), box(x=32)) == set()


def test_counting() -> None:
    prompt = grammar.counting("cube", 3)
    assert judge(prompt, [thing("cube")] * 3).correct
    assert judge(prompt, [thing("cube")] * 2).reason == "asked for 3 cubes, found 2"
    assert judge(prompt, [thing("cube")] * 5, strict=False).reason == "asked for 3 cubes, found 5"


def test_strict_refuses_extras_and_the_unknown() -> None:
    prompt = grammar.single_object("cube")
    for extra in (thing("ring"), thing("cube"), thing(UNKNOWN), thing("ring", UNKNOWN)):
        assert judge(prompt, [thing("cube"), extra], strict=False).correct
        assert not judge(prompt, [thing("cube"), extra]).correct
    assert not judge(prompt, [thing("cube", UNKNOWN)]).correct


def test_only_the_most_confident_object_has_its_color_tested() -> None:
    prompt = grammar.colors("red", "cube")
    low, high = thing("cube", "red", confidence=0.8), thing("cube", "blue", confidence=0.9)
    verdict = judge(prompt, [low, high], strict=False)
    assert not verdict.correct and verdict.reason == "asked for a red cube, found a blue one"


def test_position_needs_the_relation_of_subject_to_anchor() -> None:
    prompt = grammar.position("cone", "left of", "ring")
    right = judge(prompt, [thing("cone", x=50), thing("ring", x=10)])
    assert right.reason == "asked for the cone left of the ring, but it is right of it"
    assert right.position_margin is not None and right.position_margin < 0
    assert judge(prompt, [thing("cone", x=10), thing("ring", x=50)]).correct
    assert "no ring" in judge(prompt, [thing("cone")]).reason


def test_graded_numbers() -> None:
    verdict = judge(grammar.two_object("cube", "ring"), [thing("cube", confidence=0.8), thing("ring", confidence=0.9)])
    assert verdict.confidence == pytest.approx(0.85) and verdict.color_distance == 1.0
    assert verdict.position_margin is None
    nothing = judge(grammar.single_object("cube"), [])
    assert (nothing.confidence, nothing.color_distance) == (0.0, None)
    assert nothing.reason == "asked for a cube, found none"
