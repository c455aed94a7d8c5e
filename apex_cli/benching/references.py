"""Published figures beside a measurement, and whether the two can be compared.

A figure of another resolution, or of one that is not stated, is no yardstick. A figure is impossible where the time
that a further evaluation adds to a batch is less than its FLOPs take at the peak rate of the device it is given for.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from apex_cli.gpus import Gpu

FILE = Path(__file__).with_name("references.toml")
Verdict = Literal[
    "comparable", "not comparable (resolution unknown)", "not comparable (another resolution)", "impossible"
]


@dataclass(frozen=True)
class Reference:
    """A row of the file. `latency` in seconds at batch 1, `throughput` in pictures a second at batch 10."""

    model: str
    gpu: str
    nfe: int
    method: str
    resolution: str
    source: str
    latency: float | None = None
    throughput: float | None = None

    def figure(self, batch: int) -> float | None:
        """Seconds of a request of `batch` pictures."""
        if batch == 10 and self.throughput:
            return batch / self.throughput
        return self.latency if batch == 1 else None


@cache
def sources() -> Mapping[str, str]:
    """What each source is, by its short name."""
    return tomllib.loads(FILE.read_text(encoding="utf-8"))["sources"]


@cache
def references() -> tuple[Reference, ...]:
    """All rows of the file."""
    return tuple(Reference(**row) for row in tomllib.loads(FILE.read_text(encoding="utf-8"))["row"])


def of(model: str, gpu: Gpu | None, nfe: int, batch: int) -> list[Reference]:
    """Rows for a cell on the family of `gpu`; none without a device that has figures."""
    family = gpu and gpu.family
    return [
        row
        for row in references()
        if (row.model, row.gpu, row.nfe) == (model, family, nfe) and row.figure(batch) is not None
    ]


def implied_rate(first: Reference, second: Reference, flops: float, batch: int = 10) -> float:
    """FLOP/s that the further evaluations of `second` would run at, with `flops` for one picture and evaluation."""
    a, b = first.figure(batch), second.figure(batch)
    assert a is not None and b is not None
    more = (second.nfe - first.nfe) * batch * flops
    return more / (b - a) if b > a else float("inf")


def verdict(row: Reference, batch: int, resolution: int, flops: float, gpu: Gpu, among: Sequence[Reference]) -> Verdict:
    """Whether the figure of `row` can be set beside a measurement at `resolution`, where one evaluation of a picture
    takes `flops`; `among`: rows that may be the same method at one evaluation."""
    one = [r for r in among if (r.model, r.gpu, r.method, r.nfe) == (row.model, row.gpu, row.method, 1)]
    if row.nfe > 1 and one and one[0].figure(batch) and implied_rate(one[0], row, flops, batch) > gpu.bf16:
        return "impossible"
    if not row.resolution:
        return "not comparable (resolution unknown)"
    return "comparable" if row.resolution == str(resolution) else "not comparable (another resolution)"
