"""The page of a run: `index.html` (one file that opens offline) and `loss.png`, made from what the run has written.

It reads `metrics.jsonl`, `recipe.toml` and `samples/*.png`, so the page of a resumed run shows its whole life.
"""

from __future__ import annotations

import io
import statistics
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from apex_cli.pages import data_url, render
from apex_cli.records import METRICS, read_metrics
from apex_cli.training import curves
from apex_cli.training.runs import RECIPE

GRIDS = 24
"""Most sample grids on a page, first and last among them."""
WIDTH = 1280
"""Grids wider than this are shown smaller, in pixels."""
WARNINGS = 20
"""Most warnings on a page, the newest."""
RECENT = 10
"""Records that the speed is taken from."""


def write_page(folder: Path) -> Path:
    """Write `index.html` and `loss.png` of the run in `folder`; returns the path of the page."""
    from markupsafe import Markup

    records = read_metrics(folder / METRICS)
    recipe = (folder / RECIPE).read_text() if (folder / RECIPE).is_file() else ""
    panels = curves.panels(records)
    curves.save_png([panel for panel in panels if panel.group in ("loss", "terms")], folder / "loss.png")
    return render(
        Path(__file__).with_name("page.html.j2"),
        folder / "index.html",
        **_facts(folder, records, tomllib.loads(recipe)),
        terms=_terms(records),
        warnings=[(r["step"], warning) for r in records for warning in r["warnings"]][-WARNINGS:],
        grids=[(_step(path), _inline(path)) for path in _grids(folder / "samples")],
        teacher=_inline(teacher) if (teacher := folder / "samples" / "teacher.png").is_file() else None,
        panels=[(panel, Markup(curves.to_svg(panel))) for panel in panels],
        recipe=recipe,
    )


def _facts(folder: Path, records: Sequence[dict[str, Any]], recipe: dict[str, Any]) -> dict[str, Any]:
    """What the head of the page says."""
    train = recipe.get("train", {})
    step, steps = (records[-1]["step"] if records else 0), train.get("steps")
    pace = statistics.median(r["seconds"] for r in records[-RECENT:]) if records else None
    starts = [0, *(record["step"] for record in records)]
    spent = sum(r["seconds"] * (r["step"] - start) for r, start in zip(records, starts, strict=False))
    chosen = {kind: recipe[kind]["name"] for kind in ("objective", "backbone", "data") if kind in recipe}
    facts = chosen | {key: train[key] for key in ("tuning", "batch", "lr") if key in train}
    if pace is not None:
        facts |= {"s/step": f"{pace:.3g}", "trained for": _duration(spent)}
        if steps and step < steps:
            facts["remaining"] = _duration(pace * (steps - step))
    return {
        "name": recipe.get("name") or folder.resolve().name,
        "description": recipe.get("description", ""),
        "step": step,
        "steps": steps,
        "facts": facts,
        "prompts": train.get("sample_prompts", []),
        "sample": recipe.get("sample", {}),
    }


def _terms(records: Sequence[dict[str, Any]]) -> list[tuple[str, float, float | None]]:
    """(name, last value, last measured gradient norm) of the loss and of each term."""
    if not records:
        return []
    gradients: dict[str, float] = {}
    for record in records:
        gradients |= {k: v for k, v in record["telemetry"].items() if k.startswith("gradient.")}
    last = records[-1]
    terms = [(name, value, gradients.get(f"gradient.{name}")) for name, value in last["parts"].items()]
    return [("loss", last["loss"], last["grad_norm"]), *terms]


def _grids(samples: Path) -> list[Path]:
    """The student's grids, oldest first; of very many an even choice."""
    paths = sorted(samples.glob("step-*.png"), key=_step)
    if len(paths) <= GRIDS:
        return paths
    return [paths[round(i * (len(paths) - 1) / (GRIDS - 1))] for i in range(GRIDS)]


def _step(grid: Path) -> int:
    return int(grid.stem.removeprefix("step-"))


def _inline(path: Path) -> str:
    """The picture as a data URL: as it is, or smaller where it is wider than `WIDTH`."""
    from PIL import Image

    data, kind = path.read_bytes(), "png"
    with Image.open(io.BytesIO(data)) as picture:
        if picture.width > WIDTH:
            smaller, kind = io.BytesIO(), "webp"
            picture.thumbnail((WIDTH, picture.height))
            picture.save(smaller, kind, quality=85)
            data = smaller.getvalue()
    return data_url(data, kind)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
