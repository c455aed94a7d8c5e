"""Prompts of one length that never come twice, so that nothing is remembered unless that is what is measured."""

from __future__ import annotations

from apex_cli.worlds.shapes.vocabulary import COLORS, RELATIONS, SHAPES


def prompts(count: int, words: int, first: int = 0) -> list[str]:
    """`count` captions of `words` words each, those numbered from `first` on: "a photo of a red cube above a ...".

    Where the words do not suffice to tell two numbers apart, captions come again, after 80 or more.
    """
    return [" ".join(_caption(first + k, words)[:words]) for k in range(count)]


def _caption(number: int, words: int) -> list[str]:
    made = ["a", "photo", "of", "a"]
    while len(made) < words:
        number, color = divmod(number, len(COLORS))
        number, shape = divmod(number, len(SHAPES))
        number, relation = divmod(number, len(RELATIONS))
        made += [list(COLORS)[color], SHAPES[shape], *RELATIONS[relation].split(), "a"]
    return made
