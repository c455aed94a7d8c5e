"""The questions that teach a text encoder to read."""

from __future__ import annotations

import pytest

from apex_cli.worlds.shapes import grammar
from apex_cli.worlds.shapes.questions import ANSWERS, HUES, KINDS, PLACES, answers

CASES = [
    (grammar.single_object("ring"), ("ring", "", 1, "", "", "")),
    (grammar.counting("cube", 3), ("cube", "", 3, "", "", "")),
    (grammar.two_object("cone", "star"), ("cone", "", 1, "star", "", "")),
    (grammar.position("cone", "above", "ring"), ("cone", "", 1, "ring", "", "above")),
    (grammar.color_attr(("red", "cube"), ("blue", "star")), ("cube", "red", 1, "star", "blue", "")),
]


@pytest.mark.parametrize(("prompt", "said"), CASES)
def test_answers_follow_the_order_of_the_text(prompt, said):
    kind, hue, number, other, shade, place = said
    expected = KINDS.index(kind), HUES.index(hue), number, KINDS.index(other), HUES.index(shade), PLACES.index(place)
    assert answers(prompt) == expected


def test_a_chain_is_asked_for_its_first_two_things():
    prompt = grammar.chain([("red", "cube"), ("blue", "star"), ("pink", "ring")], ["left of", "below"])
    assert prompt.text == "a photo of a red cube left of a blue star below a pink ring"
    first = KINDS.index("cube"), HUES.index("red"), 1, KINDS.index("star"), HUES.index("blue"), PLACES.index("left of")
    assert answers(prompt) == first


def test_training_captions_differ_in_their_answers():
    """Two captions with the same answers ask for the same picture, so nothing that matters is left out."""
    prompts = grammar.prompts("train")
    found = [answers(prompt) for prompt in prompts]
    assert len(set(found)) == len(prompts)
    assert all(0 <= a < n for row in found for a, n in zip(row, ANSWERS, strict=True))
