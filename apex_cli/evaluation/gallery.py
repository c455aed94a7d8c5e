"""One HTML file that needs nothing else: facts, table, and the pictures that failed, each with the judge's reason."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apex_cli.evaluation.compare import Comparison, paired
from apex_cli.evaluation.records import ImageRecord, Report, read_records, read_report
from apex_cli.pages import data_url, render

GALLERY = "gallery.html"
TEMPLATES = Path(__file__).parent / "templates"
PAIRS_SHOWN = 400
"""Pairs of a comparison that are drawn; those that disagree most come first."""


def write_gallery(folder: Path) -> Path:
    """`gallery.html` of a finished evaluation: every failure, filtered by task."""
    report = read_report(folder)
    failures = [record for record in read_records(folder).values() if not record.correct]
    cards = [_card(record.tag, record.prompt, [(record, "", folder)]) for record in failures]
    return render(TEMPLATES / "gallery.html.jinja", folder / GALLERY, report=report, facts=facts(report), cards=cards)


def write_comparison(comparison: Comparison, names: tuple[str, str]) -> Path:
    """`comparison-SECOND.html` in the first folder: both pictures of a seed side by side, disagreement first."""
    first, second = comparison.first, comparison.second
    pairs = sorted(zip(*paired(first, second), strict=True), key=lambda pair: -disagreement(pair, first, second))
    cards = [_card(a.tag, a.prompt, [(a, names[0], first), (b, names[1], second)]) for a, b in pairs[:PAIRS_SHOWN]]
    reports = list(zip(names, map(read_report, (first, second)), strict=True))
    return render(
        TEMPLATES / "comparison.html.jinja",
        first / f"comparison-{second.name}.html",
        comparison=comparison,
        reports=reports,
        cards=cards,
        total=len(pairs),
    )


def facts(report: Report) -> dict[str, Any]:
    """What stands in the head of a report, label -> text."""
    sample, setting = report.subject.sample, report.setting
    return {
        "Model": report.subject.source,
        "Weights": f"SHA-256 {report.subject.weights[:16]}",
        "Evaluations": f"{report.nfe_counted:g} counted per image",
        "Sampler": f"{sample['sampler']}, guidance {sample['guidance']:g}",
        "Split": f"{setting.suite} {setting.split}, {setting.prompts} prompts (SHA-256 {setting.prompts_sha256[:16]})",
        "Images": f"{report.found} of {report.expected}, seed {setting.seed}",
        "Kernel distance": "-" if report.kernel_distance is None else f"{report.kernel_distance:.1f}",
        "Seed diversity": "-" if report.diversity is None else f"{report.diversity:.3f}",
        "Seconds per image": f"{report.seconds_per_image:.4f} on {report.hardware['cpu']}",
    }


def disagreement(pair: tuple[ImageRecord, ImageRecord], first: Path, second: Path) -> float:
    """1 where only one is right, plus the RMS distance of the pictures in 0..1."""
    a, b = (_pixels(folder / r.filename) for folder, r in zip((first, second), pair, strict=True))
    return (pair[0].correct != pair[1].correct) + float(np.sqrt(((a - b) ** 2).mean()))


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path), np.float32) / 255


def _card(tag: str, prompt: str, pictures: Sequence[tuple[ImageRecord, str, Path]]) -> dict[str, Any]:
    shown = [
        {"name": name, "record": record, "url": data_url((folder / record.filename).read_bytes(), "png")}
        for record, name, folder in pictures
    ]
    return {"tag": tag, "prompt": prompt, "pictures": shown, "index": pictures[0][0].index}
