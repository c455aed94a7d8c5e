"""WISE's arithmetic, under its two incompatible meanings.

`legacy`    consistency c, realism r, aesthetics a in {0, 1, 2}:  WiScore = (0.7 c + 0.2 r + 0.1 a) / 2
`verified`  one binary score

Overall is the weighted sum of the six category means. Which category a prompt is of follows from its id.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from apex_cli.bootstrap import SEED, bounds, means

CATEGORIES = ("cultural", "time", "space", "biology", "physics", "chemistry")
"""In the order of the paper's Table 4."""
PARTS = {"consistency": 7, "realism": 2, "aesthetic_quality": 1}
"""Tenths, so that three best marks are 1 exactly."""
HIGHEST = 2


@dataclass(frozen=True)
class Edition:
    """`last`: the greatest id of each category; `weights`: of their means."""

    last: tuple[int, ...]
    weights: tuple[float, ...]

    def category(self, prompt_id: int) -> str:
        """Raises `LookupError` for an id of no category."""
        if prompt_id < 1 or prompt_id > self.last[-1]:
            raise LookupError(f"prompt {prompt_id} is of no category")
        return CATEGORIES[int(np.searchsorted(self.last, prompt_id))]

    def overall(self, means: Mapping[str, float]) -> float:
        """The weighted sum; where categories are absent their weight goes to the others."""
        weights = {name: weight for name, weight in zip(CATEGORIES, self.weights, strict=True) if name in means}
        return sum(weight * means[name] for name, weight in weights.items()) / sum(weights.values())


LEGACY = Edition((400, 567, 700, 800, 900, 1000), (0.4, 0.167, 0.133, 0.1, 0.1, 0.1))
VERIFIED = Edition((400, 520, 640, 760, 880, 1000), (0.4, 0.12, 0.12, 0.12, 0.12, 0.12))


def wiscore(parts: Mapping[str, float]) -> float:
    """In 0..1."""
    return sum(weight * parts[name] for name, weight in PARTS.items()) / (10 * HIGHEST)


def read_legacy(text: str) -> dict[str, int] | None:
    """The three marks of an answer, e.g. "Consistency: 2"; None unless each is there and in 0..2. (Versions of the
    official script count a missing mark as 0, as 999, or drop the picture.)"""
    found = re.findall(r"(consistency|realism|aesthetic quality)\**\s*[:：]?\**\s*(\d+)", text, re.IGNORECASE)
    marks = {name.lower().replace(" ", "_"): int(mark) for name, mark in found}
    whole = marks.keys() == PARTS.keys() and all(mark <= HIGHEST for mark in marks.values())
    return marks if whole else None


def read_verified(text: str) -> dict[str, int] | None:
    """The binary score: JSON with "score", "Score: 1", or a text whose only number is 0 or 1; else None."""
    try:
        parsed = json.loads(text)
        mark = parsed["score"] if isinstance(parsed, dict) else parsed
        return {"score": int(mark)} if mark in (0, 1) and not isinstance(mark, bool) else None
    except KeyError:
        return None
    except ValueError:
        pass
    named = re.findall(r"score\W*(\d+(?:\.\d+)?)", text, re.IGNORECASE)
    numbers = set(named or re.findall(r"\d+(?:\.\d+)?", text))
    return {"score": int(numbers.pop())} if len(numbers) == 1 and numbers <= {"0", "1"} else None


def interval(edition: Edition, values: Mapping[str, Sequence[float]]) -> tuple[float, float]:
    """95 % percentile bootstrap of Overall over prompts, within each category."""
    rng = np.random.default_rng(SEED)
    draws = {name: means(own, rng) for name, own in values.items()}
    return bounds(np.asarray(edition.overall(draws)))  # type: ignore[arg-type]  # arrays add as numbers do
