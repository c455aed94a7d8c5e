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


def time_bin(t: float) -> str:
    """`t1` for exactly 1, where NFE = 1 samples; else the lower edge of one of `BINS` bins."""
    return "t1" if t == 1 else f"t{int(t * BINS) / BINS:.1f}"


class Telemetry:
    """Collects facts between two log records."""

    def __init__(self) -> None:
        self.facts: dict[str, float] = {}
        self.values: dict[str, list[Tensor]] = {}

    def watch(self, loss: Loss) -> None:
        """Keep the per-sample facts of one forward."""
        for name, value in loss.watch.items():
            if name in TIME_OF:
                times = loss.watch[TIME_OF[name]]
                for t, error in zip(times.tolist(), value, strict=True):
                    self.values.setdefault(f"{name}.{time_bin(t)}", []).append(error)
            elif name not in TIME_OF.values():
                self.values.setdefault(name, []).append(value.mean())

    def measure(self, loss: Loss, norm_of: Callable[[Tensor], float]) -> None:
        """Gradient norm of every unweighted term, one extra backward each."""
        for name, part in loss.parts.items():
            self.facts[f"gradient.{name}"] = norm_of(part)

    def note(self, facts: dict[str, float]) -> None:
        """Take over facts measured elsewhere, e.g. the diversity of a sample grid."""
        self.facts |= facts

    def collect(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """All facts since the last call, and the warnings they give rise to."""
        facts = self.facts | {name: float(torch.stack(v).mean()) for name, v in sorted(self.values.items())}
        self.facts, self.values = {}, {}
        return facts, tuple(_warnings(facts))


def _warnings(facts: dict[str, float]) -> Iterable[str]:
    if "left_out" in facts:
        yield f"{facts['left_out']:.0f} broken samples are left out; quarantine.jsonl names them."
    if facts.get("diversity", 1.0) < COLLAPSED * facts.get("teacher_diversity", 0.0):
        yield (
            f"seeds give nearly the same image (diversity {facts['diversity']:.3f}, teacher "
            f"{facts['teacher_diversity']:.3f}): collapse. Lower train.lr or objective.guidance."
        )
