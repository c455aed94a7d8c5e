"""The words of the shapes world: eight flat shapes, GenEval's ten colours, and how free text is brought to them.

A model of this world sees only `WORDS`. Everything a person may type instead ("3 crimson discs on top of the box")
passes through `normalise` first, which knows synonyms, plurals, digits and longer relations, and reports what it had to
leave out.
"""

from __future__ import annotations

import re

SHAPES: tuple[str, ...] = ("sphere", "cube", "cone", "star", "diamond", "cross", "ring", "heart")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (215, 25, 30),
    "orange": (255, 135, 0),
    "yellow": (250, 230, 30),
    "green": (25, 145, 50),
    "blue": (30, 75, 220),
    "purple": (140, 30, 150),
    "pink": (255, 145, 195),
    "brown": (110, 60, 25),
    "black": (15, 15, 15),
    "white": (250, 250, 250),
}
BACKGROUND: tuple[int, int, int] = (150, 150, 150)
RELATIONS: tuple[str, ...] = ("left of", "right of", "above", "below")
NUMBERS: dict[int, str] = {2: "two", 3: "three", 4: "four"}

SHAPE_SYNONYMS: dict[str, str] = {
    "circle": "sphere", "ball": "sphere", "disc": "sphere", "disk": "sphere", "dot": "sphere", "orb": "sphere",
    "square": "cube", "box": "cube", "block": "cube",
    "triangle": "cone", "pyramid": "cone",
    "pentagram": "star",
    "rhombus": "diamond", "lozenge": "diamond",
    "plus": "cross",
    "hoop": "ring", "donut": "ring", "doughnut": "ring", "annulus": "ring",
}  # fmt: skip
COLOR_SYNONYMS: dict[str, str] = {
    "crimson": "red", "scarlet": "red", "ruby": "red",
    "tangerine": "orange",
    "golden": "yellow", "lemon": "yellow",
    "emerald": "green", "lime": "green",
    "azure": "blue", "navy": "blue", "cobalt": "blue",
    "violet": "purple", "indigo": "purple",
    "rose": "pink", "magenta": "pink",
    "chocolate": "brown", "chestnut": "brown",
    "ebony": "black", "charcoal": "black",
    "ivory": "white", "snowy": "white",
}  # fmt: skip
OTHER_SYNONYMS: dict[str, str] = {
    "picture": "photo", "image": "photo", "drawing": "photo", "photograph": "photo", "the": "a", "one": "a", "1": "a",
    "2": "two", "3": "three", "4": "four", "under": "below", "beneath": "below", "underneath": "below", "over": "above",
}  # fmt: skip
SYNONYMS: dict[str, str] = {**SHAPE_SYNONYMS, **COLOR_SYNONYMS, **OTHER_SYNONYMS}
PHRASES: dict[str, str] = {
    r"(?:(?:to|on|at) (?:the )?)?(left|right)(?: side)? of": r"\1 of",
    r"on (?:the )?top of": "above",
    r"at the bottom of": "below",
}


def plural(word: str) -> str:
    """The regular English plural, e.g. "crosses", "spheres"."""
    return word + ("es" if word.endswith(("s", "x")) else "s")


def article(phrase: str) -> str:
    """`phrase` with "a" or "an" before it, as GenEval writes it."""
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


PLURALS: dict[str, str] = {shape: plural(shape) for shape in SHAPES}
WORDS: tuple[str, ...] = (
    "a", "an", "photo", "of", "and", "left", "right", "above", "below",
    *NUMBERS.values(), *COLORS, *SHAPES, *PLURALS.values(),
)  # fmt: skip
_FORMS: dict[str, str] = {
    **{word: word for word in WORDS},
    **SYNONYMS,
    **{plural(word): PLURALS[shape] for word, shape in SHAPE_SYNONYMS.items()},
}


def normalise(text: str) -> tuple[str, list[str]]:
    """Bring free text to `WORDS`: returns (the text in known words only, the words that were left out, in order)."""
    text = " ".join(re.findall(r"[a-z0-9]+", text.lower()))
    for pattern, replacement in PHRASES.items():
        text = re.sub(rf"\b{pattern}\b", replacement, text)
    words = text.split()
    unknown = [word for word in words if word not in _FORMS]
    return " ".join(_agree([_FORMS[word] for word in words if word in _FORMS])), unknown


def _agree(words: list[str]) -> list[str]:
    """Give articles their right form, and shapes after a number their plural ("an red", "three cube")."""
    result = []
    for position, word in enumerate(words):
        if word in ("a", "an"):
            following = words[position + 1] if position + 1 < len(words) else ""
            word = "an" if following[:1] in tuple("aeiou") else "a"
        elif word in PLURALS and _counted(words, position):
            word = PLURALS[word]
        result.append(word)
    return result


def _counted(words: list[str], position: int) -> bool:
    """Whether a number stands before the word, with at most colours between."""
    while position and words[position - 1] in COLORS:
        position -= 1
    return position > 0 and words[position - 1] in NUMBERS.values()
