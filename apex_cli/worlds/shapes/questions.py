"""What a caption says, as multiple choice: what a text encoder must be able to tell before it can guide a picture."""

from __future__ import annotations

from apex_cli.worlds.shapes.grammar import Prompt
from apex_cli.worlds.shapes.vocabulary import COLORS, NUMBERS, RELATIONS, SHAPES

KINDS = ("", *SHAPES)
HUES = ("", *COLORS)
PLACES = ("", *RELATIONS)
ANSWERS: tuple[int, ...] = (len(KINDS), len(HUES), max(NUMBERS) + 1, len(KINDS), len(HUES), len(PLACES))
"""Kind, colour and number of the first thing, kind and colour of the second, and where the first is from there."""


def answers(prompt: Prompt) -> tuple[int, ...]:
    """The right answer to each question, below the entry of `ANSWERS`; 0 where the caption does not say."""
    # A related thing follows its anchor in `include`, and comes before it in the text.
    related = any("position" in item for item in prompt.include)
    first, second, *_ = *(reversed(prompt.include) if related else prompt.include), {}, {}
    return (
        KINDS.index(first["class"]),
        HUES.index(first.get("color", "")),
        first["count"],
        KINDS.index(second.get("class", "")),
        HUES.index(second.get("color", "")),
        PLACES.index(first["position"][0] if related else ""),
    )
