"""What a cell is set beside: the floor of its device, the stock pipeline of the same job, and published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from apex_cli.benching import references
from apex_cli.benching.cells import YARDSTICK, Case, Cell, beside
from apex_cli.benching.floors import PREFIX, Work
from apex_cli.benching.references import Reference
from apex_cli.benching.statistics import Interval
from apex_cli.gpus import Gpu

LABEL = "model, not measured"


@dataclass(frozen=True)
class Yardsticks:
    """`work`: resolution -> variant -> what a request takes; empty for models without published sizes. `gpu`: whose
    rates and reference figures count; None: no device to judge by."""

    gpu: Gpu | None
    work: Mapping[int, Mapping[str, Work]]

    def floors(self, case: Case) -> dict[str, dict[str, float]]:
        """Variant -> stage -> seconds; empty where there is nothing to judge by."""
        if self.gpu is None:
            return {}
        gpu, variants = self.gpu, self.work.get(case.resolution, {})
        return {name: work.floor(gpu, case.batch, case.nfe) for name, work in variants.items()}

    def floor(self, case: Case) -> float | None:
        """Seconds that no exact way of computing an unknown prompt's pictures can go below."""
        stages = self.floors(case).get(PREFIX)
        return sum(stages.values()) if stages else None

    def references(self, case: Case) -> list[dict[str, Any]]:
        """Published figures of the case, each with its source and whether it can be compared."""
        rows = references.of(case.model, self.gpu, case.nfe, case.batch)
        return [self._reference(row, case) for row in rows]

    def _reference(self, row: Reference, case: Case) -> dict[str, Any]:
        assert self.gpu is not None
        work = self.work.get(case.resolution)
        flops = next(iter(work.values())).transformer.flops if work else 0
        told = references.verdict(row, case.batch, case.resolution, flops, self.gpu, references.references())
        return {
            "method": row.method,
            "seconds": row.figure(case.batch),
            "resolution": row.resolution or "not stated",
            "verdict": told,
            "source": row.source,
            "source_text": references.sources()[row.source],
        }


def judged(cells: Sequence[Cell], yardsticks: Yardsticks) -> list[dict[str, Any]]:
    """The record of every cell with its floor, its ratios to our plain way and to the stock pipeline, and figures of
    others."""
    plain, stock = (beside(cells, mode) for mode in ("plain", YARDSTICK))
    return [_judged(cell, yardsticks, plain.get(cell.key), stock.get(cell.key)) for cell in cells]


def _judged(cell: Cell, yardsticks: Yardsticks, plain: Interval | None, stock: Interval | None) -> dict[str, Any]:
    floor, seconds = yardsticks.floor(cell.case), cell.spread.median.value
    others = yardsticks.references(cell.case)
    return {
        **cell.record(),
        "floors": yardsticks.floors(cell.case),
        "floor": floor,
        "over_floor": floor and seconds / floor,
        "over_plain": plain and asdict(plain),
        "over_diffusers": stock and asdict(stock),
        "references": [{**row, "over_reference": seconds / row["seconds"]} for row in others],
    }


def analytic(yardsticks: Yardsticks, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Floors alone: a row for each case and variant. Nothing is measured."""
    return [
        {
            **asdict(case),
            "label": LABEL,
            "gpu": yardsticks.gpu and yardsticks.gpu.name,
            "variant": variant,
            "stages": stages,
            "seconds": sum(stages.values()),
            "images_per_second": case.batch / sum(stages.values()),
            "references": yardsticks.references(case),
        }
        for case in cases
        for variant, stages in yardsticks.floors(case).items()
    ]


def counted(work: Mapping[int, Mapping[str, Work]]) -> list[dict[str, Any]]:
    """FLOPs, bytes of weights and kernels of every stage for one picture."""
    return [
        {
            "resolution": resolution,
            "variant": variant,
            "stage": name,
            "flops": stage.flops,
            "weight_bytes": stage.weights,
            "kernels": stage.kernels,
        }
        for resolution, variants in work.items()
        for variant, found in variants.items()
        for name, stage in (("text", found.text), ("transformer", found.transformer), ("vae", found.vae))
    ]
