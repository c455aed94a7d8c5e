"""The picture of a benchmark: where the time of a request goes, and latency against evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apex_cli.benching.laps import STAGES
from apex_cli.benching.tables import mode

COLORS = dict(zip(STAGES, ("#9e9e9e", "#4e79a7", "#bab0ac", "#e15759", "#59a14f", "#f1ce63", "#b07aa1"), strict=True))
MODE_COLORS = {
    "plain": "#4e79a7", "fast": "#e15759", "cached": "#f28e2b", "compiled": "#59a14f", "fp8": "#b07aa1",
    "diffusers": "#595959",
}  # fmt: skip


def draw(cells: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Write a PNG: stacked bars of the stages left, latency of single pictures against NFE right (of several where the
    grid has no single ones)."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 2.4 + 0.3 * len(cells)), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    _stages(left, cells)
    _nfe(right, cells)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)


def _stages(axes: Any, cells: Sequence[Mapping[str, Any]]) -> None:
    several = len({cell["resolution"] for cell in cells}) > 1
    labels = [
        f"{mode(cell)}, {cell['nfe']} NFE, batch {cell['batch']}" + (f", {cell['resolution']} px" if several else "")
        for cell in cells
    ]
    begin = [0.0] * len(cells)
    for stage in STAGES:
        # A picture's share, so that batches of one and of ten fit on one axis.
        lengths = [1000 * cell["stages"][stage] / cell["batch"] for cell in cells]
        axes.barh(labels, lengths, left=begin, color=COLORS[stage], label=stage)
        begin = [a + b for a, b in zip(begin, lengths, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("ms per picture, median of each stage", fontsize=9)
    axes.legend(fontsize=7, frameon=False, ncols=4, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _nfe(axes: Any, cells: Sequence[Mapping[str, Any]]) -> None:
    batch, resolution = min(cell["batch"] for cell in cells), min(cell["resolution"] for cell in cells)
    shown = [cell for cell in cells if (cell["batch"], cell["resolution"]) == (batch, resolution)]
    for name in dict.fromkeys(cell["mode"] for cell in shown):
        points = sorted((c for c in shown if c["mode"] == name), key=lambda c: c["nfe"])
        x, y = [c["nfe"] for c in points], [1000 * c["seconds"]["median"]["value"] for c in points]
        reach = [
            [m - 1000 * c["seconds"]["median"]["low"] for m, c in zip(y, points, strict=True)],
            [1000 * c["seconds"]["median"]["high"] - m for m, c in zip(y, points, strict=True)],
        ]
        axes.errorbar(x, y, yerr=reach, marker="o", capsize=3, label=name, color=MODE_COLORS[name])
    floors = sorted({(cell["nfe"], 1000 * cell["floor"]) for cell in shown if cell["floor"]})
    if floors:
        axes.plot(*zip(*floors, strict=True), "k--", label="floor")
    axes.set_xticks(sorted({cell["nfe"] for cell in shown}))
    axes.set_ylim(bottom=0)
    axes.set_xlabel("network evaluations (NFE)", fontsize=9)
    axes.set_ylabel(f"ms a request of {batch}, {resolution} px", fontsize=9)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
