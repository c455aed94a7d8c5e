"""Vocabulary, grammar, layout and renderer of the shapes world."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, pairwise

import numpy as np
import pytest

from apex_cli.errors import DataError, UsageError
from apex_cli.worlds.shapes import grammar
from apex_cli.worlds.shapes.layout import AROUND, CROWDED, GAP, LATTICE, RADIUS, place
from apex_cli.worlds.shapes.renderer import Scene, Shape, render
from apex_cli.worlds.shapes.vocabulary import BACKGROUND, COLORS, SHAPES, WORDS, normalise

STREAM = [grammar.example("train", 7, index) for index in range(4000)]


def test_iid_has_the_announced_prompts() -> None:
    prompts = grammar.prompts("iid")
    counts = Counter(prompt.tag for prompt in prompts)
    assert [counts[task] for task in grammar.TASKS] == [8, 28, 24, 72, 50, 78]
    assert len({prompt.text for prompt in prompts}) == 260
    assert {"a photo of three crosses", "a photo of an orange cube"} <= {prompt.text for prompt in prompts}


def test_position_prompts_use_the_fields_of_geneval() -> None:
    prompt = grammar.position("cone", "left of", "ring")
    assert prompt.text == "a photo of a cone left of a ring"
    assert prompt.include == (
        {"class": "ring", "count": 1},
        {"class": "cone", "count": 1, "position": ("left of", 0)},
    )
    assert grammar.counting("cube", 3).exclude == ({"class": "cube", "count": 4},)


def test_held_out_pairs_are_spread() -> None:
    assert len({shape for _, shape in grammar.HELD_OUT_COLORS}) == len({c for c, _ in grammar.HELD_OUT_COLORS}) == 8
    assert len(set(grammar.HELD_OUT_POSITIONS)) == 6


def test_held_out_pairs_never_train() -> None:
    scenes = [scene for _, scene in STREAM] + [grammar.example("iid", 0, index)[1] for index in range(1000)]
    seen = {(shape.color, shape.kind) for scene in scenes for shape in scene.shapes}
    assert seen == set(grammar.SEEN_COLORS)
    captions = [prompt.text for prompt, _ in STREAM] + [prompt.text for prompt in grammar.prompts("iid")]
    for subject, anchor in grammar.HELD_OUT_POSITIONS:
        held = {
            grammar.position(subject, relation, anchor).text for relation in ("left of", "right of", "above", "below")
        }
        assert not {caption.removeprefix(grammar.PREFIX) for caption in captions} & {
            text.removeprefix(grammar.PREFIX) for text in held
        }


def test_compose_names_held_out_pairs_only() -> None:
    for prompt in grammar.prompts("compose"):
        colors = [(item["color"], item["class"]) for item in prompt.include if "color" in item]
        assert set(colors) <= set(grammar.HELD_OUT_COLORS)
        if prompt.tag == "position":
            anchor, subject = (item["class"] for item in prompt.include)
            assert (subject, anchor) in grammar.HELD_OUT_POSITIONS


def test_every_word_of_the_stream_is_known() -> None:
    texts = [prompt.text for prompt, _ in STREAM]
    texts += [prompt.text for split in ("train", "iid", "compose", "long") for prompt in grammar.prompts(split)]
    assert {word for text in texts for word in text.split()} <= set(WORDS)
    assert len(set(WORDS)) == len(WORDS)
    assert all(normalise(text) == (text, []) for text in texts)


def test_examples_are_a_pure_function_of_seed_and_index() -> None:
    assert grammar.example("train", 7, 123) == STREAM[123]
    assert grammar.example("train", 8, 123) != STREAM[123]
    assert all(grammar.caption("train", 7, index) == prompt for index, (prompt, _) in enumerate(STREAM[:50]))
    assert np.array_equal(render(STREAM[5][1]), render(STREAM[5][1]))


def test_the_stream_mixes_prefixes_and_counts() -> None:
    prefixed = np.mean([prompt.text.startswith(grammar.PREFIX) for prompt, _ in STREAM])
    assert 0.72 < prefixed < 0.78
    assert {len(scene.shapes) for _, scene in STREAM} == {1, 2, 3, 4}


@pytest.mark.parametrize("split", grammar.SPLITS)
def test_shapes_keep_apart_and_inside(split: str) -> None:
    for index in range(200):
        shapes = grammar.example(split, 3, index)[1].shapes
        assert all((s.x * LATTICE).is_integer() and (s.y * LATTICE).is_integer() for s in shapes)
        assert all(s.radius in (RADIUS, CROWDED) and s.radius < min(s.x, s.y, 1 - s.x, 1 - s.y) for s in shapes)
        for a, b in combinations(shapes, 2):
            assert np.hypot(a.x - b.x, a.y - b.y) >= a.radius + b.radius + GAP - 1e-9


def test_related_things_stand_about_the_middle() -> None:
    rng = np.random.default_rng(0)
    for relation in ("left of", "above"):
        centers = [place(2, {1: (relation, 0)}, rng)[0] for _ in range(200)]
        middles = np.array([(c.min(0) + c.max(0)) / 2 for c in centers])
        assert np.abs(middles - 0.5).max() <= AROUND + 1e-9
        assert len(np.unique(middles, axis=0)) > 4


def test_unrelated_things_stand_in_rows_in_reading_order() -> None:
    rng = np.random.default_rng(0)
    for count, rows in ((2, [2]), (3, [2, 1]), (4, [2, 2]), (5, [3, 2])):
        for _ in range(50):
            row_by_row = np.split(place(count, {}, rng)[0], np.cumsum(rows)[:-1])
            assert all((np.diff(row[:, 0]) > 0).all() for row in row_by_row)
            assert all(a[:, 1].max() < b[:, 1].min() for a, b in pairwise(row_by_row))


def test_groups_move_as_a_whole() -> None:
    rng = np.random.default_rng(0)
    for count, places in ((1, 9), (2, 3), (3, 1), (4, 9)):
        layouts = np.array([place(count, {}, rng)[0] for _ in range(500)])
        assert len(np.unique(layouts, axis=0)) == places
        assert (np.ptp(layouts - layouts[:, :1], axis=0) == 0).all()


def test_unnamed_colors_are_the_usual_ones_and_never_held_out() -> None:
    rng = np.random.default_rng(0)
    for shape, usual in grammar.USUAL_COLORS.items():
        scenes = [grammar.scene_for(grammar.counting(shape, 3), rng) for _ in range(100)]
        assert all(len({s.color for s in scene.shapes}) == 1 for scene in scenes)
        assert {scene.shapes[0].color for scene in scenes} == set(usual)
        assert not {(color, shape) for color in usual} & set(grammar.HELD_OUT_COLORS)


def test_impossible_layout_is_a_data_error() -> None:
    with pytest.raises(DataError):
        place(40, {}, np.random.default_rng(0))


def test_unknown_split_names_the_known_ones() -> None:
    for call in (grammar.prompts, lambda split: grammar.example(split, 0, 0)):
        with pytest.raises(UsageError) as error:
            call("test")
        assert "iid" in error.value.remedy


@pytest.mark.parametrize("size", [32, 64, 128])
@pytest.mark.parametrize("kind", SHAPES)
def test_render_fills_the_core_color_and_keeps_the_background(kind: str, size: int) -> None:
    image = render(Scene((Shape(kind, "red", 0.5, 0.5, 0.17),)), size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert (image == COLORS["red"]).all(-1).any()
    changed = (image != BACKGROUND).any(-1)
    assert changed.any() and not changed[: int(0.3 * size)].any() and not changed[:, : int(0.3 * size)].any()


def test_render_agrees_between_sizes() -> None:
    scene = STREAM[11][1]
    small = render(scene, 64).astype(float)
    large = render(scene, 256).reshape(64, 4, 64, 4, 3).mean((1, 3))
    assert np.abs(small - large).mean() < 0.5


def test_normalise_brings_free_text_to_the_grammar() -> None:
    assert normalise("3 crimson discs") == ("three red spheres", [])
    assert normalise("An azure ball to the left of the box.") == ("a blue sphere left of a cube", [])
    assert normalise("a donut on top of a Square") == ("a ring above a cube", [])
    assert normalise("a tangerine triangle underneath one plus") == ("an orange cone below a cross", [])
    assert normalise("two green cube") == ("two green cubes", [])
    assert normalise("a fluffy dog left of a star") == ("a left of a star", ["fluffy", "dog"])


def test_aliases_normalise_to_the_canonical_prompt() -> None:
    canonical = {prompt.text for prompt in grammar.prompts("iid")}
    for prompt in grammar.prompts("alias"):
        text, unknown = normalise(prompt.text)
        assert text in canonical and text != prompt.text and not unknown
