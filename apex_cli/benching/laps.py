"""Where the time of one request goes: stages follow one another, each mark ends one and begins the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from apex_cli.benching.clocks import Clock

STAGES = ("tokenise", "text", "sampler", "transformer", "vae", "to host", "pil")
"""In the order of a request. `sampler`: noise and its arithmetic; `encode` (PNG) comes after the request."""
CALIBRATION = 2000


@dataclass(frozen=True)
class Timing:
    """One request: `total` seconds of the host, from prompts to pictures in memory; seconds of each stage on the
    device's timeline; `prepared` and `encode`, which come before and after; how many marks were set."""

    total: float
    stages: dict[str, float] = field(default_factory=dict)
    encode: float = 0.0
    marks: int = 0
    prepared: float = 0.0

    @property
    def work(self) -> float:
        """Seconds that a loop without the harness would take as well, but for the marks."""
        return self.prepared + self.total + self.encode


class Laps:
    """Told the stage a request is in."""

    def __init__(self, clock: Clock):
        self.clock = clock
        self.marks: list[tuple[str, Any]] = []

    def to(self, stage: str) -> None:
        """The stage before ends here, `stage` begins."""
        self.marks.append((stage, self.clock.mark()))

    def stages(self) -> dict[str, float]:
        """Seconds by stage since the last call; the last mark only ends the stage before it."""
        times: dict[str, float] = {}
        for (stage, begin), (_, end) in zip(self.marks, self.marks[1:], strict=False):
            times[stage] = times.get(stage, 0.0) + self.clock.between(begin, end)
        self.marks = []
        return times


def timed(
    clock: Clock,
    laps: Laps,
    prepare: Callable[[], object],
    request: Callable[[], Sequence[Any]],
    encode: Callable[[Any], object],
) -> Timing:
    """Prepare and run one request, and encode what it made."""
    start = clock.wall()
    prepare()
    clock.sync()
    begin = clock.wall()
    laps.to(STAGES[0])
    made = request()
    laps.to("end")
    clock.sync()
    end = clock.wall()
    marks = len(laps.marks)
    stages = laps.stages()
    encoding = clock.wall()
    for image in made:
        encode(image)
    return Timing(end - begin, stages, clock.wall() - encoding, marks, begin - start)


def mark_cost(clock: Clock) -> float:
    """Seconds that a mark takes of the host, measured here."""
    laps = Laps(clock)
    start = clock.wall()
    for _ in range(CALIBRATION):
        laps.to("")
    return (clock.wall() - start) / CALIBRATION
