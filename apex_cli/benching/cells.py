"""One cell of a benchmark: a way of answering, at one NFE, batch and resolution, and all that was measured of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from apex_cli.benching.laps import STAGES, Timing
from apex_cli.benching.measure import Warmup
from apex_cli.benching.statistics import Interval, Spread, paired_ratio, spread

AGREE = 0.03
"""How far the sum of the stages may be from the total."""
BEARABLE = 0.01
"""Overhead of the harness that goes without a remark."""
LOSSY = {"fp8": "fast"}
"""Modes that change pictures, never the default, and the mode whose pictures they should draw."""
YARDSTICK = "diffusers"
"""The mode that the others are set beside."""


@dataclass(frozen=True)
class Case:
    """What is asked."""

    model: str
    resolution: int
    batch: int
    nfe: int

    @property
    def key(self) -> str:
        return f"{self.model} {self.resolution} px batch {self.batch} nfe {self.nfe}"


@dataclass(frozen=True)
class Overhead:
    """What the harness adds to a request, in seconds: its marks, which are in the request's time, and what it does
    around it, which is not; both as a `share` of the request without them, `low` to `high` its 95 % interval.
    Medians of the rounds, like the time they are set beside."""

    marks: float
    around: float
    share: float
    low: float
    high: float


@dataclass
class Cell:
    """`timings` of the counted runs in the order of the rounds, which the cells of a case share; `around`: of each, the
    seconds that the harness took beside them for prompts, hooks and bookkeeping, and its share of the round's."""

    case: Case
    mode: str
    warmup: Warmup[Timing]
    timings: list[Timing] = field(default_factory=list)
    around: list[float] = field(default_factory=list)
    tokens: int = 0
    """Tokens that the transformer saw of a prompt, padding included."""
    memory: dict[str, int] = field(default_factory=dict)
    joules: float | None = None
    """Energy of one picture."""
    psnr: float | None = None
    """Of a lossy mode: its pictures against the exact ones, in dB."""
    mark_cost: float = 0.0

    @property
    def key(self) -> str:
        return f"{self.case.key} {self.mode}"

    @property
    def times(self) -> list[float]:
        return [timing.total for timing in self.timings]

    @property
    def spread(self) -> Spread:
        return spread(self.times)

    @property
    def throughput(self) -> float:
        """Pictures a second, one request after another."""
        return self.case.batch / self.spread.median.value

    @property
    def stages(self) -> dict[str, float]:
        """Median seconds of each stage; `transformer` of all evaluations."""
        known = [*STAGES, "encode"]
        laps = [{**timing.stages, "encode": timing.encode} for timing in self.timings]
        return {name: median(lap.get(name, 0.0) for lap in laps) for name in known}

    @property
    def agreement(self) -> float:
        """Median of (sum of a run's stages / its total)."""
        return median(sum(timing.stages.values()) / timing.total for timing in self.timings)

    @property
    def overhead(self) -> Overhead:
        marks = [self.mark_cost * timing.marks for timing in self.timings]
        each = zip(marks, self.around, self.times, strict=True)
        share = spread([(mark + around) / (total - mark) for mark, around, total in each]).median
        return Overhead(median(marks), median(self.around), share.value, share.low, share.high)

    def over(self, other: Cell) -> Interval:
        """How many times as long as `other`, round by round."""
        return paired_ratio(self.times, other.times)

    def record(self) -> dict[str, Any]:
        """As JSON, with the raw times."""
        return {
            "key": self.key,
            **asdict(self.case),
            "mode": self.mode,
            "tokens": self.tokens,
            "seconds": asdict(self.spread),
            "images_per_second": self.throughput,
            "stages": self.stages,
            "stages_over_total": self.agreement,
            "first_request": self.warmup.runs[0].total,
            "warmup": {"runs": len(self.warmup.runs), "stable": self.warmup.stable},
            "memory": self.memory,
            "joules_per_image": self.joules,
            "psnr": self.psnr,
            "overhead": asdict(self.overhead),
            "times": self.times,
        }


def beside(cells: Sequence[Cell], mode: str) -> Mapping[str, Interval]:
    """Key of a cell -> its time over that of `mode`, where both were measured in the same rounds."""
    others = {cell.case: cell for cell in cells if cell.mode == mode}
    return {c.key: c.over(others[c.case]) for c in cells if c.case in others and c.mode != mode}
