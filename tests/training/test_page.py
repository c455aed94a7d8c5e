"""The page of a run: complete, self-contained, safe against hostile text, and content with little or very much."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_runs
import tomli_w
from PIL import Image

from apex_cli.records import Metrics, StepRecord
from apex_cli.training import curves
from apex_cli.training import page as page_module
from apex_cli.training.page import GRIDS, WIDTH, write_page

own_cache = tiny_runs.own_cache
HOSTILE = '</pre><script>alert("x")</script><img src="http://evil.example/p.png">'
TELEMETRY = {
    "gradient.fake": 0.8, "gradient.sup": 0.5, "error.t0.0": 0.2, "error.t0.8": 0.7, "error.t1": 1.1,
    "fake_error.t0.2": 0.3, "match_error.t0.4": 0.1, "shift_distance": 0.3, "saturation": 0.04, "sample_std": 1.0,
    "diversity": 0.2, "teacher_diversity": 0.25,
}  # fmt: skip


class Reader(HTMLParser):
    """Tags, addresses and visible text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.grids: list[dict[str, str | None]] = []
        self.feed(path.read_text(encoding="utf-8"))
        self.text = " ".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if dict(attrs).get("class") == "grid":
            self.grids.append(dict(attrs))

    def handle_data(self, data: str) -> None:
        self.texts.append(data.strip())


def record(step: int, **changes: Any) -> StepRecord:
    parts = {"fake": 0.5 / step, "sup": 0.3}
    values = {"loss": 0.8 / step, "parts": parts, "grad_norm": 0.6, "lr": 1e-4, "seconds": 2.0, "telemetry": TELEMETRY}
    return StepRecord(step, **values | changes)


def write_run(folder: Path, records: list[StepRecord], grids: int = 0, teacher: bool = False, size: int = 32) -> Path:
    """What a run leaves behind, as far as the page reads it."""
    (folder / "samples").mkdir(parents=True)
    metrics = Metrics(folder / "metrics.jsonl", 0)
    for each in records:
        metrics.append(each)
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), dtype=np.uint8)
    for name in [f"step-{10 * i:06d}" for i in range(grids)] + ["teacher"] * teacher:
        Image.fromarray(pixels).save(folder / "samples" / f"{name}.png")
    prompts = ["a red cube", HOSTILE]
    recipe = {"name": "tiny", "objective": {"name": "apex"}, "train": {"steps": 400, "sample_prompts": prompts},
              "sample": {"nfe": 1, "sampler": "renoise"}}  # fmt: skip
    (folder / "recipe.toml").write_text(tomli_w.dumps(recipe))
    return folder


def test_grids_come_in_the_order_of_their_steps(tmp_path):
    run = write_run(tmp_path / "run", [record(10)], grids=2)
    (run / "samples" / "step-000000.png").rename(run / "samples" / "step-1000000.png")
    text = Reader(write_page(run)).text
    assert text.index("step 10 ") < text.index("step 1000000")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    records = [record(step, warnings=("collapse <b>",) if step == 20 else ()) for step in range(10, 310, 10)]
    return write_run(tmp_path_factory.mktemp("page") / "run", records, grids=3, teacher=True)


@pytest.fixture(scope="module")
def page(run: Path) -> Reader:
    return Reader(write_page(run))


def test_every_number_has_a_curve(run, page):
    panels = {panel.group: [line.label for line in panel.lines] for panel in curves.panels(read(run))}
    assert panels == {
        "loss": ["loss"],
        "terms": ["fake", "sup"],
        "gradient": ["fake", "sup"],
        "grad_norm": ["gradient"],
        "error": ["0.0 – 0.2", "0.8 – 1.0", "t = 1"],
        "fake_error": ["0.2 – 0.4"],
        "match_error": ["0.4 – 0.6"],
        "shift_distance": ["shift_distance"],
        "saturation": ["saturation"],
        "diversity": ["model", "teacher"],
        "lr": ["lr"],
        "sample_std": ["sample_std"],
    }
    assert page.tags.count("svg") == len(panels)
    assert all(label in page.text for labels in panels.values() for label in labels)


def read(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_head_tells_where_the_run_stands(page):
    for fact in ("Step 300 of 400", "apex", "10 min 00 s", "3 min 20 s", "collapse <b>"):
        assert fact in page.text


def test_grids_by_step_with_the_newest_shown_beside_the_teacher(page):
    assert [grid["data-step"] for grid in page.grids] == ["0", "10", "20"]
    assert ["hidden" in grid for grid in page.grids] == [True, True, False]
    assert page.tags.count("img") == 4
    assert "Teacher" in page.text


def test_nothing_is_loaded_from_elsewhere(run, page):
    assert page.addresses
    assert all(re.match(r"data:image/png;base64,|#", address) for address in page.addresses)
    text = (run / "index.html").read_text()
    assert not re.search(r"url\((?!#)|@import|<link|<script src|xmlns", text)
    assert "https://" not in text


def test_hostile_prompts_stay_text(run, page):
    assert HOSTILE in page.text
    assert page.tags.count("script") == 1
    assert "evil.example/p.png" not in "".join(page.addresses)


def test_the_svg_is_well_formed_and_takes_the_colour_of_the_page(run):
    for panel in curves.panels(read(run)):
        svg = curves.to_svg(panel)
        ElementTree.fromstring(svg.replace("xlink:", ""))
        assert "currentColor" in svg
        assert curves.INK not in svg


def test_loss_png_is_a_picture(run, page):
    with Image.open(run / "loss.png") as picture:
        assert picture.format == "PNG"


@pytest.mark.parametrize(
    "records",
    [[], [record(1)], [record(1, telemetry={})], [record(s, telemetry={}, parts={}) for s in (1, 2)]],
    ids=["none", "one", "no telemetry", "no parts"],
)
@pytest.mark.parametrize("grids", [0, 1])
def test_little_is_enough(tmp_path, records, grids):
    page = Reader(write_page(write_run(tmp_path / "run", records, grids)))
    assert ("Nothing has been logged yet." in page.text) == (not records)
    assert len(page.grids) == grids
    assert (tmp_path / "run" / "loss.png").is_file()


def test_a_folder_without_recipe_gets_a_page(tmp_path):
    Metrics(tmp_path / "metrics.jsonl", 0).append(record(1))
    assert tmp_path.name in Reader(write_page(tmp_path)).text


def test_a_long_run_is_thinned(tmp_path):
    records = [record(step) for step in range(1, 4001)]
    assert write_page(write_run(tmp_path / "run", records)).stat().st_size < 500_000


def test_thinning_keeps_every_spike():
    y = np.ones(5000)
    y[[7, 2503]] = 9, -3
    assert {7, 2503} <= set(curves._envelope(y))


def test_the_median_ignores_a_spike():
    y = np.linspace(0, 1, 300)
    y[150] = 1000
    at, median = curves._running_median(y)
    assert np.abs(median - np.linspace(0, 1, 300)[at]).max() < 0.02


def test_numbers_that_are_not_finite_are_left_out():
    records = [{"step": s, "loss": 1.0, "parts": {}, "grad_norm": 1.0, "lr": 1.0, "telemetry": {"shift_distance": d}}
               for s, d in ((1, float("inf")), (2, float("nan")), (3, 0.5))]  # fmt: skip
    shift = next(panel for panel in curves.panels(records) if panel.group == "shift_distance")
    assert shift.lines[0].points == [(3, 0.5)]


def test_large_and_many_grids_are_reduced(tmp_path):
    run = write_run(tmp_path / "run", [record(1)], grids=GRIDS + 6, size=8)
    newest = sorted((run / "samples").glob("step-*.png"))[-1]
    Image.new("RGB", (WIDTH + 400, 100)).save(newest)
    page = Reader(write_page(run))
    assert len(page.grids) == GRIDS
    assert (page.grids[0]["data-step"], page.grids[-1]["data-step"]) == ("0", str(10 * (GRIDS + 5)))
    assert page.addresses[GRIDS - 1].startswith("data:image/webp;base64,")


def test_a_resumed_run_shows_no_step_twice(tmp_path):
    run = write_run(tmp_path / "run", [record(step) for step in (10, 20, 30)])
    metrics = Metrics(run / "metrics.jsonl", 20)
    metrics.append(record(30, loss=7.0))
    write_page(run)
    (loss,) = curves.panels(read(run))[0].lines
    assert [step for step, _ in loss.points] == [10, 20, 30]
    assert loss.last == 7.0


def test_train_writes_the_page_and_names_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(page_module, "write_page", write_page)  # the tests of this folder do without it
    run = tiny_runs.train(tmp_path / "tiny", train={"steps": 2, "sample_every": 1})
    out, err = capsys.readouterr()
    assert out == f"{run}\n"
    assert f"Page: {run / 'index.html'}" in err
    assert [grid["data-step"] for grid in Reader(run / "index.html").grids] == ["0", "1", "2"]


def test_other_ranks_are_silent(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    tiny_runs.train(tmp_path / "tiny", train={"steps": 1})
    assert capsys.readouterr() == ("", "")
