"""What is known of a list of prompts before anything is drawn: counts, lengths, scripts, contamination."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from apex_cli.data.prompt_sources import Match, Prompts
from apex_cli.data.similarity import words

EXAMPLES = 20
"""Matches of a benchmark that the report quotes."""


def report(prompts: Prompts) -> dict[str, Any]:
    """JSON of everything; `lengths` in words and characters, `scripts` by the letters that a prompt has most of."""
    return {
        "prompts": len(prompts.texts),
        "sources": prompts.read,
        "empty_or_repeated": prompts.repeated,
        "near_repetitions": prompts.near,
        "lengths": {
            "words": _spread([len(words(text)) for text in prompts.texts]),
            "characters": _spread([len(text) for text in prompts.texts]),
        },
        "scripts": dict(Counter(script(text) for text in prompts.texts).most_common()),
        "mixed_scripts": sum(len(_scripts(text)) > 1 for text in prompts.texts),
        "contamination": {
            name: _contamination([m for m in prompts.matches if m.benchmark == name], count)
            for name, count in prompts.held_out.items()
        },
    }


def _spread(lengths: Sequence[int]) -> dict[str, float]:
    low, median, high, top = np.percentile(lengths, [0, 50, 95, 100]).tolist()
    return {"least": low, "median": median, "mean": float(np.mean(lengths)), "p95": high, "most": top}


def script(text: str) -> str:
    """The script of most letters, as Unicode names it in lower case (`latin`, `cjk`, `cyrillic`), or `none`."""
    found = _scripts(text)
    return min(found, key=lambda name: (-found[name], name)) if found else "none"


def _scripts(text: str) -> Counter[str]:
    return Counter(_script(letter) for letter in text if letter.isalpha())


@cache
def _script(letter: str) -> str:
    return unicodedata.name(letter, "unnamed").split()[0].lower()


def _contamination(matches: Sequence[Match], count: int) -> dict[str, Any]:
    """`prompts`: ours that met one of the benchmark's `of`, of which `met` were met."""
    kinds = Counter(match.kind for match in matches)
    return {
        "prompts": len(matches),
        **{kind: kinds[kind] for kind in ("exact", "near", "contains")},
        "met": len({match.met for match in matches}),
        "of": count,
        "examples": [[match.kind, match.prompt, match.met] for match in matches[:EXAMPLES]],
    }
