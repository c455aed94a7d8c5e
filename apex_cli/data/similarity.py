"""How alike prompts are: runs of three words, MinHash to find candidates among many, the Jaccard index to decide.

Words are compared without case and punctuation; in scripts without blanks every character is a word.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

RUN = 3
BANDS, ROWS = 8, 4
"""At a Jaccard index of 0.8 two prompts meet in a band with 98 % probability, at 0.5 with 40 %."""
LOOK_BACK = 8
"""Of many prompts that share a band, each is compared with so many before it."""
UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af\u0e00-\u0e7f"
WORD = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+")


def words(text: str) -> tuple[str, ...]:
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


def runs(tokens: Sequence[str]) -> frozenset[int]:
    """Hashes of all runs of three words; a shorter text is one run."""
    starts = range(max(1, len(tokens) - RUN + 1))
    return frozenset(zlib.crc32(" ".join(tokens[i : i + RUN]).encode()) for i in starts)


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


def near_repetitions(prompts: Sequence[str], threshold: float) -> dict[int, int]:
    """Prompt -> an earlier one whose Jaccard index with it is at least `threshold`. Depends on the prompts alone."""
    found: dict[int, int] = {}
    for later, earlier in _candidates(prompts):
        if later not in found and jaccard(runs(words(prompts[later])), runs(words(prompts[earlier]))) >= threshold:
            found[later] = earlier
    return found


def _candidates(prompts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """(later, earlier) of prompts that agree in a band of their signatures."""
    rng = np.random.default_rng(0)
    factors = rng.integers(1, 2**63, BANDS * ROWS, dtype=np.uint64) | np.uint64(1)
    offsets = rng.integers(0, 2**63, BANDS * ROWS, dtype=np.uint64)
    signatures = np.empty((len(prompts), BANDS * ROWS), np.uint32)
    for i, prompt in enumerate(prompts):
        hashes = np.fromiter(runs(words(prompt)), np.uint64)[:, None] * factors + offsets  # modulo 2^64
        signatures[i] = (hashes >> np.uint64(32)).min(axis=0)
    for band in np.split(signatures, BANDS, axis=1):
        keys = np.ascontiguousarray(band).view(f"V{4 * ROWS}").ravel()
        _, groups = np.unique(keys, return_inverse=True)
        order = np.argsort(groups, kind="stable")
        ends = np.flatnonzero(np.diff(groups[order], append=-1)) + 1
        for start, end in pairwise((0, *ends.tolist())):
            members = order[start:end].tolist()
            for k, later in enumerate(members[1:], 1):
                yield from ((later, earlier) for earlier in members[max(0, k - LOOK_BACK) : k])


class HeldOut:
    """Prompts that must not be trained on: does another one repeat, resemble or contain one of them?"""

    def __init__(self, prompts: Sequence[str], threshold: float):
        self.prompts, self.threshold = list(prompts), threshold
        tokens = [words(prompt) for prompt in prompts]
        self._spelled = [f" {' '.join(row)} " for row in tokens]
        self._runs = [runs(row) for row in tokens]
        self._whole = {row: i for i, row in reversed(list(enumerate(tokens)))}
        self._homes: dict[int, list[int]] = {}
        for i, row in enumerate(self._runs):
            for run in row:
                self._homes.setdefault(run, []).append(i)

    def match(self, prompt: str) -> tuple[str, int] | None:
        """(kind, place in `prompts`): `exact`, `near` by the Jaccard index, or `contains` all its words in a row.

        What is shorter than three words is only met exactly.
        """
        tokens = words(prompt)
        if tokens in self._whole:
            return "exact", self._whole[tokens]
        own, spelled = runs(tokens), f" {' '.join(tokens)} "
        shared: dict[int, int] = {}
        for run in own:
            for i in self._homes.get(run, ()):
                shared[i] = shared.get(i, 0) + 1
        near = [i for i, n in shared.items() if n / (len(own) + len(self._runs[i]) - n) >= self.threshold]
        if near:
            return "near", min(near)
        inside = [i for i, n in shared.items() if n == len(self._runs[i]) and self._spelled[i] in spelled]
        return ("contains", min(inside)) if inside else None
