"""Curves of a run: records become panels, panels become inline SVG (for the page) or one PNG.

A curve is a running median over its raw values, which stay visible behind it; long runs are thinned to what a screen
can show.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_cli.training.telemetry import BINS, TIME_OF

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

PANELS = {
    "loss": ("Loss", "weighted sum of the terms"),
    "terms": ("Terms", "unweighted, as they enter the loss"),
    "gradient": ("Gradient of every term", "norm, unweighted"),
    "grad_norm": ("Gradient of the loss", "norm before clipping"),
    "error": ("Flow error on data, by time", "t = 1 is where one step samples from"),
    "fake_error": ("Flow error under the shifted condition, by time", ""),
    "match_error": ("Distance of shifted and real velocity, by time", ""),
    "shift_distance": ("Condition shift", "relative distance of v(c_fake) and v(c)"),
    "saturation": ("Saturation", "share of the correction beyond the clamp"),
    "diversity": ("Diversity of seeds", "distance between images of one prompt"),
    "lr": ("Learning rate", ""),
}
"""Group of values -> title and note, in the order of the page; other telemetry follows under its own name."""
PLACES = {"diversity": ("diversity", "model"), "teacher_diversity": ("diversity", "teacher")}
"""Telemetry whose name does not say its group and label."""

# Middle tones: at least 3 : 1 against white as well as against the dark page.
COLORS = ("#3b82c4", "#d06a28", "#2f9a60", "#c0527f", "#8e6bbf", "#9a7d1f", "#5f7f8f")
TIMES = ("#3f9c8a", "#3d8ab0", "#5a78c4", "#7c62bd", "#a052a6")
TIME_ONE = "#d8423a"
INK = "#010203"
"""Stands for the colour of the text until the SVG is inside the page, where it becomes `currentColor`."""
POINTS = 240
"""Most points of a drawn curve."""
FEW = 24
"""Curves of fewer points are drawn with their points, unsmoothed."""
LOG_FROM = 5
"""Positive values that span this factor get a logarithmic axis, unless their group is in `LINEAR`."""
LINEAR = {"lr", "saturation", "diversity"}
EXACT = {"lr", "diversity"}
"""Groups without noise of the batch, which are not smoothed."""


@dataclass(frozen=True)
class Line:
    label: str
    color: str
    points: list[tuple[int, float]]
    """(step, value), never empty."""
    bold: bool = False

    @property
    def last(self) -> float:
        return self.points[-1][1]


@dataclass(frozen=True)
class Panel:
    group: str
    title: str
    note: str
    lines: list[Line]
    end: int
    """Last step of the run, where all panels end."""

    @property
    def logarithmic(self) -> bool:
        values = [value for line in self.lines for _, value in line.points]
        return self.group not in LINEAR and min(values) > 0 and max(values) > LOG_FROM * min(values)


def panels(records: Sequence[dict[str, Any]]) -> list[Panel]:
    """Every number of `records` that was logged, as curves sorted into panels."""
    groups: dict[str, dict[str, list[tuple[int, float]]]] = {}
    for record in records:
        for group, label, value in _values(record):
            if math.isfinite(value):
                groups.setdefault(group, {}).setdefault(label, []).append((record["step"], value))
    order = [*(group for group in PANELS if group in groups), *sorted(groups.keys() - PANELS.keys())]
    end = records[-1]["step"] if records else 0
    return [Panel(group, *PANELS.get(group, (group, "")), list(_lines(group, groups[group])), end) for group in order]


def _values(record: dict[str, Any]) -> Iterator[tuple[str, str, float]]:
    """(group, label, value) of everything in one record."""
    yield "loss", "loss", record["loss"]
    for name, value in record["parts"].items():
        yield "terms", name, value
    yield "grad_norm", "gradient", record["grad_norm"]
    yield "lr", "lr", record["lr"]
    for key, value in record["telemetry"].items():
        group, _, label = key.partition(".")
        yield *PLACES.get(key, (group, label or group)), value


def _lines(group: str, curves: dict[str, list[tuple[int, float]]]) -> Iterator[Line]:
    if group not in TIME_OF:
        for color, (label, points) in zip(cycle(COLORS), curves.items(), strict=False):
            yield Line(label, color, points)
        return
    for label, points in sorted(curves.items(), key=lambda item: float(item[0][1:])):
        low = float(label[1:])
        if low == 1:
            yield Line("t = 1", TIME_ONE, points, bold=True)
        else:
            yield Line(f"{low:.1f} – {low + 1 / BINS:.1f}", TIMES[round(low * BINS)], points)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def to_svg(panel: Panel) -> str:
    """One panel as an `<svg>` element for inside a page: refers to nothing outside, inherits the colour of the text."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2, 2.7))
    figure.patch.set_alpha(0)
    axes = figure.add_axes((0.13, 0.13, 0.85, 0.84))
    _draw(axes, panel)
    file = io.StringIO()
    # Text stays text: the page's own font, and a tenth of the bytes.
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        FigureCanvasSVG(figure).print_svg(file)
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", file.getvalue(), flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"|(?<=<g) id="[^"]*"', "", text[text.index("<svg") :])
    return text.replace(INK, "currentColor")


def save_png(drawn: Sequence[Panel], path: Path) -> None:
    """`drawn` beside each other in one picture on white; an empty run gives empty axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * max(len(drawn), 1), 3.6))
    for axes, panel in zip(figure.subplots(1, max(len(drawn), 1), squeeze=False)[0], drawn, strict=False):
        _draw(axes, panel)
        axes.set_title(panel.title, fontsize=11)
        axes.legend(fontsize=9)
    figure.subplots_adjust(0.1 / max(len(drawn), 1), 0.1, 0.99, 0.91, wspace=0.13)
    FigureCanvasAgg(figure).print_png(path)


def _draw(axes: Axes, panel: Panel) -> None:
    import numpy as np

    for line in panel.lines:
        x, y = np.array(line.points, dtype=float).T
        width = 2.4 if line.bold else 1.5
        raw = _envelope(y)
        if len(x) < FEW or panel.group in EXACT:
            marker = "o" if len(x) < FEW else None
            axes.plot(x[raw], y[raw], color=line.color, linewidth=width, marker=marker, markersize=3, label=line.label)
            continue
        at, median = _running_median(y)
        axes.plot(x[raw], y[raw], color=line.color, linewidth=0.7, alpha=0.3)
        axes.plot(x[at], median, color=line.color, linewidth=width, label=line.label)
    _dress(axes, panel)


def _dress(axes: Axes, panel: Panel) -> None:
    """Scales, ticks and a faint grid, all in the colour of the text."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    if panel.logarithmic:
        low, high = axes.dataLim.intervaly
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1,) if high > 1e3 * low else (1, 2, 5)))
        axes.yaxis.set_minor_locator(NullLocator())
    else:
        axes.yaxis.set_major_locator(MaxNLocator(6))
    axes.set_xlim(-0.02 * panel.end, 1.02 * panel.end)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step:g}" if step < 1e5 else f"{step / 1000:g}k"))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    axes.patch.set_alpha(0)
    axes.grid(color=INK, alpha=0.12, linewidth=0.7)
    axes.tick_params(colors=INK, labelsize=10.5, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set(color=INK, alpha=0.4)


def _envelope(y: np.ndarray) -> list[int]:
    """Indices of at most `POINTS` values that keep every spike: lowest and highest of each stretch, in order."""
    import numpy as np

    if len(y) <= POINTS:
        return list(range(len(y)))
    stretches = np.array_split(np.arange(len(y)), POINTS // 2)
    return [int(i) for own in stretches for i in sorted({own[y[own].argmin()], own[y[own].argmax()]})]


def _running_median(y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of at most `POINTS` values and the median of a thirtieth of the run around each; shorter at the ends."""
    import numpy as np

    reach = max(2, len(y) // 60)
    at = np.unique(np.linspace(0, len(y) - 1, POINTS).round().astype(int))
    padded = np.pad(y, reach, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1)
    return at, np.nanmedian(windows[at], axis=1)
