"""Facts that explain a run: gradient norm of every term, loss by time bin with t = 1 apart, branch distance."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from apex_cli.objectives.base import Loss

BINS = 5
TIME_OF = {"error": "t", "fake_error": "fake_t", "match_error": "s"}
"""Per-sample errors of `Loss.watch` and the time each belongs to; all other entries are averaged."""
COLLAPSED = 0.3
"""Seed diversity below this share of the teacher's calls for a warning."""


NAMES = (*(f"t{k / BINS:.1f}" for k in range(BINS)), "t1")
"""`t1` for exactly 1, where NFE = 1 samples; else the lower edge of one of `BINS` bins."""


def time_bin(t: Tensor) -> Tensor:
    """The place in `NAMES` of each time, int64 like `t`."""
    return (t * BINS).long().clamp(max=BINS)


class Telemetry:
    """Collects facts between two log records, over all samples of all ranks. What is watched stays where it was
    computed, so that no step waits for it."""

    def __init__(self) -> None:
        self.facts: dict[str, float] = {}
        self.sums: dict[str, Tensor] = {}
        """Name -> [bins, 2]: sum and number of the values in each time bin; one bin where there are no times."""

    def watch(self, loss: Loss) -> None:
        """Keep the per-sample facts of one forward."""
        for name, value in loss.watch.items():
            if name in TIME_OF:
                self._add(name, value, time_bin(loss.watch[TIME_OF[name]].flatten()), len(NAMES))
            elif name not in TIME_OF.values():
                self._add(name, value, torch.zeros_like(value.flatten(), dtype=torch.long), 1)

    def _add(self, name: str, value: Tensor, bins: Tensor, count: int) -> None:
        values = value.detach().flatten().float()
        sums = self.sums.setdefault(name, values.new_zeros(count, 2))
        sums.index_add_(0, bins, torch.stack([values, torch.ones_like(values)], 1))

    def measure(self, loss: Loss, norm_of: Callable[[Tensor], float]) -> None:
        """Gradient norm of every unweighted term, one extra backward each."""
        for name, part in loss.parts.items():
            self.facts[f"gradient.{name}"] = norm_of(part)

    def note(self, facts: dict[str, float]) -> None:
        """Take over facts measured elsewhere, e.g. the diversity of a sample grid."""
        self.facts |= facts

    def collect(self, reduce: Callable[[Tensor], Tensor]) -> tuple[dict[str, float], tuple[str, ...]]:
        """All facts since the last call, and the warnings they give rise to. `reduce` sums a tensor over the ranks, all
        of which take part and have watched the same names."""
        facts = self.facts | self._means(reduce)
        self.facts, self.sums = {}, {}
        return facts, tuple(_warnings(facts))

    def _means(self, reduce: Callable[[Tensor], Tensor]) -> dict[str, float]:
        if not self.sums:
            return {}
        names = [
            f"{name}.{part}" if name in TIME_OF else name
            for name in sorted(self.sums)
            for part in NAMES[: len(self.sums[name])]
        ]
        rows = reduce(torch.cat([self.sums[name] for name in sorted(self.sums)])).tolist()
        return {name: total / count for name, (total, count) in zip(names, rows, strict=True) if count}


def _warnings(facts: dict[str, float]) -> Iterable[str]:
    if "left_out" in facts:
        yield f"{facts['left_out']:.0f} broken samples are left out; quarantine.jsonl names them."
    if facts.get("diversity", 1.0) < COLLAPSED * facts.get("teacher_diversity", 0.0):
        yield (
            f"seeds give nearly the same image (diversity {facts['diversity']:.3f}, teacher "
            f"{facts['teacher_diversity']:.3f}): collapse. Lower train.lr or objective.guidance."
        )
