"""One HTML file that needs nothing else: facts, tables, and the pictures that failed, each with the judge's reason."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apex_cli.evaluation.compare import compare, paired
from apex_cli.evaluation.records import ImageRecord, Report, read_records, read_report
from apex_cli.evaluation.tables import number, title, value_text
from apex_cli.pages import data_url, render

GALLERY = "gallery.html"
TEMPLATES = Path(__file__).parent / "templates"
SHOWN = 800
"""Failures that are drawn, so that the page stays below some 30 MB."""
PAIRS_SHOWN = 400
"""Pairs of a comparison that are drawn; those that disagree most come first."""
SIDE = 320
"""Pictures that are larger are embedded at this side, as WebP."""
MASK_COLORS = np.array([(255, 45, 149), (0, 200, 255), (255, 200, 0), (120, 255, 120)], np.uint8)
MASK_ALPHA = 110
HASH = re.compile("[0-9a-f]{64}")
Shown = tuple[ImageRecord, str, Path]
"""A record, whose it is, and the folder of its evaluation."""


def write_gallery(folder: Path) -> Path:
    """`gallery.html` of a finished evaluation: its failures under every protocol that judges single images."""
    report = read_report(folder)
    failures = [r for name in report.results for r in read_records(folder, name) if not r.correct]
    cards = [_card([(record, "", folder)]) for record in failures[:SHOWN]]
    return _render("gallery", folder / GALLERY, cards, report=report, facts=facts(report), total=len(failures))


def write_comparison(first: Path, second: Path, names: tuple[str, str]) -> Path:
    """`comparison-SECOND.html` in the first folder: both pictures of a seed, disagreement first."""
    comparisons = compare(first, second)
    pairs = [pair for c in comparisons for pair in zip(*paired(first, second, c.protocol)[:2], strict=True)]
    pairs.sort(key=lambda pair: -disagreement(pair, first, second))
    cards = [_card([(a, names[0], first), (b, names[1], second)]) for a, b in pairs[:PAIRS_SHOWN]]
    target = first / f"comparison-{second.name}.html"
    return _render("comparison", target, cards, comparisons=comparisons, names=names, total=len(pairs), paired=True)


def _render(name: str, target: Path, cards: Sequence[dict[str, Any]], **values: Any) -> Path:
    counts = {
        "tag": Counter(card["tag"] for card in cards),
        "failure": Counter(card["failure"] for card in cards),
        "class": Counter(kind for card in cards for kind in card["classes"]),
    }
    options = {key: sorted(count.items()) for key, count in counts.items()}
    shared = {"paired": False, "options": options, "number": number, "value_text": value_text}
    return render(TEMPLATES / f"{name}.html.jinja", target, cards=cards, **shared | values)


def facts(report: Report) -> dict[str, Any]:
    """What stands in the head of a report, label -> text."""
    subject, setting = report.subject, report.setting
    sample = {key: value for key, value in subject.sample.items() if key in ("sampler", "guidance", "steps", "call")}
    told = {
        "Images of": subject.source,
        "Weights": f"SHA-256 {subject.weights[:16]}" if subject.weights else "",
        "Evaluations": "" if report.nfe_counted is None else f"{report.nfe_counted:g} counted per image",
        "Sampling": ", ".join(f"{key} {value}" for key, value in sample.items()),
        "Prompts": f"{setting.prompt_set}, {setting.prompts} x {setting.n} (SHA-256 {setting.prompts_sha256[:16]})",
        "Images": f"{report.found} of {report.expected}"
        + ("" if setting.seed is None else f", seed {setting.seed}: image k of prompt i has noise (seed, i n + k)"),
        "Protocols": ", ".join(title(r.protocol, r.found) for r in report.results.values() if r.status != "skipped"),
        "Judges": "; ".join(
            f"{name}, {stage}: {identity_text(identity)}"
            for name, result in report.results.items()
            for stage, identity in result.identity.items()
        ),
        "Seed diversity": "" if report.diversity is None else f"{report.diversity:.3f}",
        "Drawing": ""
        if report.seconds_per_image is None
        else f"{report.seconds_per_image:.4f} s per image on {report.hardware['cpu']}",
        "Versions": ", ".join(f"{name} {number}" for name, number in report.versions.items()),
    }
    return {label: text for label, text in told.items() if text}


def identity_text(identity: Mapping[str, Any]) -> str:
    """`network inception-2015, weights 6726825d0af5f729, version 1`: of a hash the first 16 digits."""
    short = {key: text[:16] if HASH.fullmatch(text := str(value)) else text for key, value in identity.items()}
    return ", ".join(f"{key} {text}" for key, text in short.items())


def disagreement(pair: tuple[ImageRecord, ImageRecord], first: Path, second: Path) -> float:
    """The difference of the scores, plus a hundredth of the RMS distance of small pictures in 0..1."""
    small = [_small(folder / r.filename) for folder, r in zip((first, second), pair, strict=True)]
    return abs(pair[0].score - pair[1].score) + float(np.sqrt(((small[0] - small[1]) ** 2).mean())) / 100


def _small(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.draft("RGB", (64, 64))
        return np.asarray(image.convert("RGB").resize((32, 32)), np.float32) / 255


def _card(shown: Sequence[Shown]) -> dict[str, Any]:
    """A card of one picture, or of two of the same prompt and seed."""
    records = [record for record, _, _ in shown]
    wrong = next((record for record in records if not record.correct), records[0])
    return {
        "tag": wrong.tag,
        "prompt": wrong.prompt,
        "item": wrong.item,
        "k": wrong.k,
        "failure": wrong.failure or ("" if wrong.correct else "other"),
        "classes": classes(wrong),
        "margin": wrong.margin,
        "pictures": [_picture(*one) for one in shown],
    }


def classes(record: ImageRecord) -> list[str]:
    """What the prompt names, where its demands are GenEval's."""
    return sorted({item["class"] for item in json.loads(record.metadata).get("include", [])})


def _picture(record: ImageRecord, name: str, folder: Path) -> dict[str, Any]:
    path = folder / record.filename
    with Image.open(path) as image:
        size = image.size
        url = _url(image, path)
    return {"name": name, "record": record, "url": url, "size": size, "mask": _mask(record, size)}


def _url(image: Image.Image, path: Path) -> str:
    """The file itself where it is small, so that pixels are pixels."""
    if max(image.size) <= SIDE and image.format == "PNG":
        return data_url(path.read_bytes(), "png")
    small = image.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    return data_url(_bytes(small, "WEBP"), "webp")


def _mask(record: ImageRecord, size: tuple[int, int]) -> str | None:
    """All masks of a record as one transparent picture."""
    masks = [box.mask for box in record.boxes if box.mask is not None]
    if not masks:
        return None
    overlay = np.zeros((size[1], size[0], 4), np.uint8)
    for number_, runs in enumerate(masks):
        overlay[decode(runs, size)] = (*MASK_COLORS[number_ % len(MASK_COLORS)], MASK_ALPHA)
    drawn = Image.fromarray(overlay)
    drawn.thumbnail((SIDE, SIDE), Image.Resampling.NEAREST)
    return data_url(_bytes(drawn, "PNG"), "png")


def decode(runs: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Run lengths, the background first, as bool [H, W]; `size` is (W, H)."""
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return flat.reshape(size[1], size[0])


def _bytes(image: Image.Image, form: str) -> bytes:
    out = io.BytesIO()
    image.save(out, format=form, quality=80)
    return out.getvalue()
