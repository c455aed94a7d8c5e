"""Real tiny pipelines, asked in every way there is: what a benchmark records of them."""

from __future__ import annotations

import gc
import json
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from apex_cli.benching import chart, tables
from apex_cli.benching.cells import LOSSY
from apex_cli.benching.clocks import HostClock
from apex_cli.benching.devices import found
from apex_cli.benching.engines import Staged, Stock
from apex_cli.benching.judgement import Yardsticks, judged
from apex_cli.benching.laps import STAGES, Laps
from apex_cli.benching.long import LongRun, produce, writer
from apex_cli.benching.measure import Patience
from apex_cli.benching.prompts import prompts
from apex_cli.benching.run import MODES, Bench, Grid, png, psnr
from apex_cli.build import subjects
from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond
from apex_cli.generation import Batch, Request, Sample
from apex_cli.streaming import Keeper

EAGER = tuple(mode for mode in MODES if mode != "compiled")
"""A compiler need not be there."""
QUICK = Patience(runs=2, seconds=0, warmup=2)


@pytest.fixture(scope="module", params=["shapes", "shapes-qwen"])
def subject(request):
    return subjects.subject(request.param, None, None, EAGER, (1, 2))


@pytest.fixture(scope="module")
def bench(subject):
    made = Bench(subject, Grid(nfe=(1, 2), batch=(2,), mode=EAGER), QUICK, found(), HostClock(cpu_time=True))
    made.events = list(made.run())
    return made


@pytest.fixture(scope="module")
def cells(bench):
    return judged(bench.cells, Yardsticks(None, {}))


def test_every_case_is_measured_in_every_mode(bench, cells):
    assert [(c["nfe"], c["mode"]) for c in cells] == [(nfe, mode) for nfe in (1, 2) for mode in EAGER]


def test_progress_is_told_mode_by_mode_and_round_by_round(bench):
    """Of each case a warm-up for each mode and two rounds."""
    first, second = ([e for e in bench.events if f"nfe {nfe} " in e.phase] for nfe in (1, 2))
    assert first[0].phase == "measure " + bench.cells[0].case.key + " (1 of 2)"
    modes, total = len(EAGER), len(EAGER) + 2
    assert [(e.done, e.total) for e in first] == [(n, total) for n in (*range(modes), modes + 1, modes + 2)]
    assert [e.phase[-8:] for e in second] == ["(2 of 2)"] * total


def test_stages_make_the_total_and_none_is_missing(cells):
    for cell in cells:
        assert 0.97 < cell["stages_over_total"] < 1.03
        skipped = {"text"} if cell["mode"] == "cached" else set()
        assert {name for name in STAGES if cell["stages"][name] == 0} == skipped
        assert cell["stages"]["encode"] > 0


def test_twice_the_evaluations_are_seen_in_the_transformer(bench):
    for mode in EAGER:
        one, two = (next(c for c in bench.cells if (c.mode, c.case.nfe) == (mode, nfe)) for nfe in (1, 2))
        # Marks: a pair more for each evaluation.
        assert two.timings[0].marks == one.timings[0].marks + 2


@pytest.mark.parametrize("mode", ["plain", "diffusers"])
def test_ratios_are_to_the_mode_of_the_same_rounds(cells, mode):
    for cell in cells:
        ratio = cell[f"over_{mode}"]
        assert (ratio is None) == (cell["mode"] == mode)
        if ratio:
            other = next(c for c in cells if (c["nfe"], c["mode"]) == (cell["nfe"], mode))
            expected = np.median(np.divide(cell["times"], other["times"]))
            assert ratio["value"] == pytest.approx(expected)
            assert ratio["low"] <= ratio["value"] <= ratio["high"]


def test_the_record_is_json_of_a_known_form(cells):
    assert json.loads(json.dumps(cells)) == cells
    for cell in cells:
        assert set(cell) == {
            "key", "model", "resolution", "batch", "nfe", "mode", "tokens", "seconds", "images_per_second", "stages",
            "stages_over_total", "first_request", "warmup", "memory", "joules_per_image", "psnr", "overhead", "times",
            "floors", "floor", "over_floor", "over_plain", "over_diffusers",
            "references",
        }  # fmt: skip
        assert set(cell["seconds"]) == {"median", "p5", "p90", "p95", "n"}
        assert len(cell["times"]) == cell["seconds"]["n"] == 2
        assert cell["images_per_second"] == pytest.approx(2 / cell["seconds"]["median"]["value"])
        assert 0 < cell["overhead"]["share"] < 0.01
        assert cell["tokens"] > 0 and cell["first_request"] > 0


def test_a_lossy_mode_says_how_far_its_pictures_are_from_the_exact_ones(cells, bench, subject):
    from apex_cli.benching.cells import Case

    for cell in cells:
        assert (cell["psnr"] is not None) == (cell["mode"] == "fp8")
        if cell["mode"] == "fp8":
            assert 15 < cell["psnr"] < 99 and tables.mode(cell) == f"fp8, LOSSY: {cell['psnr']:.1f} dB"
    engines, texts = subject.engines(Case(subject.name, 64, 2, 2), Laps(HostClock())), prompts(2, subject.words)
    lossy, exact = (np.stack([np.asarray(x, float) for x in engines[mode](texts, 0)]) for mode in ("fp8", "fast"))
    error = np.square(lossy - exact).mean()
    assert 10 * np.log10(255**2 / error) == pytest.approx(bench.cells[-2].psnr)


def test_psnr_of_a_known_difference():
    exact = np.zeros((2, 4, 4, 3))
    assert psnr(exact + 25.5, exact) == pytest.approx(20)
    assert psnr(exact, exact) == pytest.approx(20 * np.log10(255) + 10 * np.log10(96))


def test_tables_chart_and_csv(cells, tmp_path):
    text = tables.markdown(tables.COLUMNS, tables.rows(cells))
    assert len(text.splitlines()) == 2 + len(cells)
    columns, stages = tables.stage_rows(cells)
    assert all(len(row) == len(columns) for row in stages)
    tables.write_csv(cells, tmp_path / "b.csv")
    head, *lines = (tmp_path / "b.csv").read_text().splitlines()
    assert len(lines) == len(cells) and all(line.count(",") == head.count(",") for line in lines)
    chart.draw(cells, "title", tmp_path / "b.png")
    assert Image.open(tmp_path / "b.png").width > 1000


def test_all_engines_draw_the_same_picture(subject):
    """At one evaluation, which has no sampler to differ in, from the same noise."""
    from apex_cli.benching.cells import Case

    engines = subject.engines(Case(subject.name, 64, 1, 1), Laps(HostClock()))
    assert isinstance(engines["plain"], Staged) and isinstance(engines["diffusers"], Stock)
    text = prompts(1, subject.words, 77)
    drawn = {}
    for mode, engine in engines.items():
        engine.prepare(text)
        with engine.watched():
            drawn[mode] = np.asarray(engine(text, 5)[0], float)
    for mode in set(EAGER) - set(LOSSY):
        assert np.abs(drawn[mode] - drawn["plain"]).max() <= 1, mode
    assert (drawn["fp8"] != drawn["plain"]).any()
    assert drawn["plain"].std() > 5
    assert png(Image.fromarray(drawn["plain"].astype("uint8"))).startswith(b"\x89PNG")


def test_pictures_of_a_long_run_have_their_indices(subject):
    got = list(subject.draw("fast", 1, 2, [3, 4, 9]))
    assert [[index for index, _ in some] for some in got] == [[3, 4], [9]]
    (again,) = subject.draw("plain", 1, 1, [9])
    assert np.abs(np.asarray(again[0][1], float) - np.asarray(got[1][0][1], float)).max() <= 1


def alive() -> Counter:
    """How many there are of what a picture is made of."""
    gc.collect()
    kinds = (torch.Tensor, Cond, Request, Sample, Batch, Image.Image)
    return Counter(kind for kind in map(type, gc.get_objects()) if kind in kinds)


def test_a_long_run_keeps_nothing_but_the_prompts_it_remembers(subject, tmp_path, monkeypatch):
    """Three runs of new prompts, each many times what is remembered: after the first no kind of object gets more."""
    memory = subject.draw.__self__.twins["fast"].memory
    monkeypatch.setattr(memory, "limit", 4)
    after = []
    for first in (100, 200, 300):
        run, keeper = LongRun(str(tmp_path), 24, 0), Keeper(tmp_path, writer(png))
        draw = partial(subject.draw, "fast", 1, 8)
        assert [event.done for event in produce(draw, range(first, first + 24), keeper, run, HostClock())] == [
            8,
            16,
            24,
        ]
        assert len(memory.rows) == 4
        after.append(alive())
    assert len(list(tmp_path.iterdir())) == 72
    assert after[0][Cond] >= 4 and after[2] == after[1]


@pytest.mark.parametrize(
    ("model", "ckpt", "weights", "told"),
    [
        ("qwen", None, None, "There is no model called 'qwen'"),
        ("qwen-image", None, None, "'qwen-image' needs weights"),
        ("shapes", "assets:shapes_teacher", "random", "A checkpoint has its own weights"),
    ],
)
def test_what_cannot_be_loaded(model, ckpt, weights, told):
    with pytest.raises(UsageError, match=told):
        subjects.load(model, ckpt, weights, (1,))


def test_random_weights_of_a_large_model_are_tiny_without_an_accelerator():
    loaded = subjects.load("sana-1600m", None, "random", (1,))
    assert loaded.name == "sana-1600m (tiny)"
    assert sum(p.numel() for p in loaded.backbone.network.parameters()) < 10**7
