"""Optimizer steps in turn, one of each kind a round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from apex_cli.benching.clocks import Clock
from apex_cli.benching.measure import rounds
from apex_cli.records import Progress


def measure(
    steps: Mapping[str, Callable[[], object]], clock: Clock, runs: int, taken: dict[str, list[float]], warmup: int = 2
) -> Iterator[Progress]:
    """Fill `taken`, name -> seconds of each counted step, after `warmup` rounds; yields how far it is."""
    taken |= {name: [] for name in steps}

    def timed(step: Callable[[], object]) -> float:
        clock.sync()
        start = clock.wall()
        step()
        clock.sync()
        return clock.wall() - start

    asks = {name: (lambda _, step=step: timed(step)) for name, step in steps.items()}
    for number, made in enumerate(rounds(asks, clock.wall, warmup + runs, 0)):
        if number >= warmup:
            for name, seconds in made.items():
                taken[name].append(seconds)
        yield Progress("measure steps", number + 1, warmup + runs)
