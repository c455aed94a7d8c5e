"""Facts that explain a run: gradient norm of every term, loss by time bin with t = 1 apart, distance of v(c) and v(c_fake)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from apex_cli.objectives.base import Batch, Loss, Objective

if TYPE_CHECKING:
    from apex_cli.training.loop import Trainer

BINS = 5


class Telemetry:
    """Collects facts between two log records."""

    def __init__(self, objective: Objective):
        self.objective = objective
        self.facts: dict[str, float] = {}
        self.errors: dict[str, list[Tensor]] = {}
        self.warnings: list[str] = []

    def watch(self, loss: Loss) -> None:
        """Sort the per-sample errors of a forward into time bins."""
        if "t" not in loss.watch:
            return
        t, error = loss.watch["t"], loss.watch["error"]
        names = ["t1" if value == 1 else f"t{int(value * BINS) / BINS:.1f}" for value in t.tolist()]
        for name, value in zip(names, error, strict=True):
            self.errors.setdefault(f"error.{name}", []).append(value)

    def measure(self, trainer: Trainer, loss: Loss, batch: Batch) -> None:
        """Gradient norm of every unweighted term, one extra backward each."""
        params = [p for p in trainer.params.values() if p.requires_grad]
        for name, part in loss.parts.items():
            gradients = torch.autograd.grad(part, params, retain_graph=True, allow_unused=True)
            norms = torch.stack([g.norm() for g in gradients if g is not None])
            self.facts[f"gradient.{name}"] = float(norms.norm())

    def note(self, facts: dict[str, float]) -> None:
        """Take over facts measured elsewhere, e.g. the diversity of a sample grid."""
        self.facts |= facts

    def collect(self) -> tuple[dict[str, float], tuple[str, ...]]:
        """All facts since the last call, and the warnings they give rise to."""
        facts = self.facts | {k: float(torch.stack(v).mean()) for k, v in sorted(self.errors.items())}
        warnings = tuple(self.warnings)
        self.facts, self.errors, self.warnings = {}, {}, []
        return facts, warnings
