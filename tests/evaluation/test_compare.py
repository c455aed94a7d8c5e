"""A comparison is of the numbers that the reports print, whatever the protocol, and says of how many images."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tiny_judges import picture

from apex_cli import registry
from apex_cli.errors import UsageError
from apex_cli.evaluation import gallery
from apex_cli.evaluation.base import Item
from apex_cli.evaluation.clip_sana import ClipSana
from apex_cli.evaluation.compare import compare
from apex_cli.evaluation.geneval.protocol import result as geneval
from apex_cli.evaluation.ocr import Ocr, OcrConfig
from apex_cli.evaluation.pairs import PairConfig
from apex_cli.evaluation.records import ImageRecord, Report, Result, Setting, Subject, write_records

SIZES = {"single_object": 2, "counting": 5, "color_attr": 3}
"""Prompts of each tag, unequal so that weights matter."""


def items(sizes: dict[str, int] = SIZES) -> list[Item]:
    return [Item(f"{tag}-{i}", tag, f'{tag} {i} "text"') for tag, size in sizes.items() for i in range(size)]


def save(folder: Path, result: Result, records: list[ImageRecord] | None = None) -> Path:
    """An evaluation's folder as a comparison reads it."""
    records = result.records if records is None else records
    folder.mkdir(parents=True)
    found = len(records)
    result = result.model_copy(update={"found": found, "expected": found, "records": []})
    write_records(folder, result.protocol, records)
    setting = Setting(prompt_set="s", prompts=9, prompts_sha256="p", n=2, seed=0)
    report = Report(
        subject=Subject(source=folder.name),
        setting=setting,
        found=found,
        expected=found,
        results={result.protocol: result},
        versions={},
        hardware={},
    )
    report.save(folder)
    return folder


def by_geneval(folder: Path, rng: np.random.Generator) -> Result:
    return geneval("geneval@hf", [record(item, k, float(rng.integers(2))) for item in items() for k in range(2)])


def record(item: Item, k: int, value: float) -> ImageRecord:
    name = f"{item.id}-{k}.png"
    return ImageRecord(
        filename=name, tag=item.tag, prompt=item.prompt, correct=value == 1, item=item.id, k=k, score=value
    )


def by_clip(folder: Path, rng: np.random.Generator) -> Result:
    protocol = ClipSana(PairConfig(weights=folder))
    shown = [picture(folder, item, k) for item in items() for k in range(2)]
    return protocol.summarise(shown, {"scores": {one: {"score": rng.normal(28, 3)} for one in shown}})


def by_ocr(folder: Path, rng: np.random.Generator) -> Result:
    shown = [picture(folder, item, k) for item in items() for k in range(2)]
    lines = [[{"text": "text"[: rng.integers(1, 5)], "score": 1.0, "box": (0, 0, 9, 9)}] for _ in shown]
    return Ocr(OcrConfig()).summarise(
        shown, {"text": {p: {"lines": line} for p, line in zip(shown, lines, strict=True)}}
    )


def by_wise(folder: Path, rng: np.random.Generator) -> Result:
    kind = registry.resolve("protocol", "wise@legacy")
    protocol = kind(kind.Config(folder=folder, judge={"endpoint": {"model": "gpt-4o-2024-05-13"}}))
    sizes = {"cultural": 2, "time": 5, "chemistry": 3}
    shown = [
        picture(folder, Item(str(number), item.tag, item.prompt), k)
        for number, item in enumerate(items(sizes))
        for k in range(2)
    ]
    names = ("consistency", "realism", "aesthetic_quality")
    said = {one: {"answers": [[dict.fromkeys(names, int(rng.integers(3)))]], "raw": []} for one in shown}
    return protocol.summarise(shown, {"answers": said})


def by_dpg(folder: Path, rng: np.random.Generator) -> Result:
    (folder / "prompts").mkdir()
    names = "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
    with (folder / "dpg_bench.csv").open("w", newline="") as file:
        file.write(f"{names}question_natural_language\n")
        asked = [(name, i) for name in "abc" for i in range(1, 4)]
        csv.writer(file).writerows([name, "", "", i, 0, "", "", "entity - whole (x)", f"{i}?"] for name, i in asked)
    for name in "abc":
        (folder / "prompts" / f"{name}.txt").write_text(name)
    (folder / "answers.jsonl").write_text("")
    kind = registry.resolve("protocol", "dpg@fixed")
    judge = {"answers": folder / "answers.jsonl", "answers_by": "mplug-large"}
    protocol = kind(kind.Config(folder=folder, judge=judge))
    shown = [picture(folder, item, k) for item in protocol.prompts.items for k in range(2)]
    return protocol.summarise(shown, {"answers": {p: {"answers": [(rng.random(3) < 0.6).tolist()]} for p in shown}})


@pytest.mark.parametrize("judged", [by_geneval, by_clip, by_ocr, by_wise, by_dpg])
def test_the_difference_is_that_of_the_printed_scores(judged, tmp_path):
    results = []
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        results.append(judged(tmp_path / str(seed), np.random.default_rng(seed)))
    first, second = (save(tmp_path / f"e{i}", result) for i, result in enumerate(results))
    (found,) = compare(first, second)
    difference = results[0].value - results[1].value
    assert abs(difference) > 1e-3
    assert found.overall.difference == pytest.approx(difference, rel=1e-9)
    low, high = found.overall.interval
    assert low < difference < high
    assert 0 < found.overall.detectable < 10 * (high - low)


def scores(values: dict[str, float]) -> list[ImageRecord]:
    """Of one image of each prompt."""
    return [record(item, 0, values.get(item.id, 1.0)) for item in items()]


def test_images_that_only_one_has_judged_are_counted(tmp_path):
    a, b = scores({"counting-1": 0.0}), scores({"counting-2": 0.0})
    first = save(tmp_path / "a", geneval("geneval@hf", a[1:]))
    second = save(tmp_path / "b", geneval("geneval@hf", b[:-1]))
    (found,) = compare(first, second)
    assert (found.pairs, found.unpaired) == (8, 2)
    assert found.paired == "8 of 10 pairs"
    assert found.overall.wins + found.overall.losses + found.overall.ties == 8
    nothing = [save(tmp_path / name, geneval("geneval@hf", rows)) for name, rows in (("c", a[:5]), ("d", b[5:]))]
    with pytest.raises(UsageError, match="no image is judged in both"):
        compare(*nothing)


def test_nothing_is_promised_where_nothing_differs(tmp_path):
    first, second = (save(tmp_path / name, geneval("geneval@hf", scores({}))) for name in "ab")
    (found,) = compare(first, second)
    assert found.overall.interval is None and found.overall.detectable is None and found.overall.p == 1
    assert "no interval" in str(found.overall) and "can be seen" not in str(found.overall)
    assert json.loads(found.model_dump_json())["overall"]["interval"] is None
    other = save(tmp_path / "c", geneval("geneval@hf", scores({"counting-1": 0.0})))
    (found,) = compare(first, other)
    assert found.overall.interval is not None and found.tasks["color_attr"].interval is None
    assert "can be seen" in str(found.overall)


def test_pages_show_that_there_is_no_interval(tmp_path):
    first, second = (tmp_path / name for name in "ab")
    for folder in (first, second):
        save(folder, geneval("geneval@hf", scores({"single_object-0": 0.5})[:1]))
        picture(folder, SimpleNamespace(id="single_object-0"))
    assert "<td>0.500</td><td>-</td>" in gallery.write_gallery(first).read_text()
    page = gallery.write_comparison(first, second, ("a", "b")).read_text()
    assert "<td>+0.000</td><td>-</td>" in page and "1 of 1 pairs" in page
