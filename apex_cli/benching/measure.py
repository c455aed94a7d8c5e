"""How often to ask, and in which order: warm up until times agree, then rounds in which every subject is asked once.

Rounds alternate their order (a b, b a, a b, ...), so that what drifts or disturbs meets all subjects alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, TypeVar

from apex_cli.config import Section

RunT = TypeVar("RunT")


class Patience(Section):
    """When enough is enough; seconds are those of the clock that measures."""

    runs: int = 0
    """Rounds at least; 0: 50 for single pictures, 20 for batches."""
    seconds: float = 30.0
    """Time that rounds take together at least."""
    agreeing: int = 3
    """Runs in a row that must agree before anything counts."""
    tolerance: float = 0.02
    """How far, relative to the least, they may lie apart."""
    warmup: int = 25
    """Runs after which the warm-up ends even if they do not agree; the report says so."""

    def least(self, batch: int) -> int:
        """Rounds for requests of `batch` pictures."""
        return self.runs or (50 if batch == 1 else 20)

    def expected(self, batch: int, done: int, elapsed: float) -> int:
        """Rounds that there will be, where `done` took `elapsed` seconds."""
        pace = elapsed / done
        return max(self.least(batch), done, ceil(self.seconds / pace) if pace else 0)


@dataclass
class Warmup(Generic[RunT]):
    """`runs` in order, the cold one first; `stable`: the last of them agreed."""

    runs: list[RunT] = field(default_factory=list)
    stable: bool = False


def warm_up(ask: Callable[[], RunT], seconds: Callable[[RunT], float], patience: Patience) -> Warmup[RunT]:
    """Ask until the last `patience.agreeing` runs agree, or patience ends."""
    warmup: Warmup[RunT] = Warmup()
    while len(warmup.runs) < patience.warmup and not warmup.stable:
        warmup.runs.append(ask())
        last = [seconds(run) for run in warmup.runs[1:][-patience.agreeing :]]  # the first is cold
        warmup.stable = len(last) == patience.agreeing and max(last) - min(last) <= patience.tolerance * min(last)
    return warmup


def rounds(
    subjects: Mapping[str, Callable[[int], RunT]], wall: Callable[[], float], least: int, seconds: float
) -> Iterator[dict[str, RunT]]:
    """One run of every subject a round, told its number, until there are `least` rounds and `seconds` have passed."""
    start, number = wall(), 0
    while number < least or wall() - start < seconds:
        order = list(subjects) if number % 2 == 0 else list(subjects)[::-1]
        made = {name: subjects[name](number) for name in order}
        yield {name: made[name] for name in subjects}
        number += 1
