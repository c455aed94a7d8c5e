"""`scripts/bench-eval` on a handful of pictures: it measures the real stages and the real run."""

from __future__ import annotations

import pytest
from scripts_as_modules import load_script

from apex_cli.evaluation.observations import open_stores


@pytest.fixture(scope="module")
def bench():
    return load_script("bench_eval")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "apex"))


@pytest.mark.slow
def test_rates_are_those_of_every_picture(bench, tmp_path):
    pictures = bench.draw(tmp_path / "pictures", 6, 64)
    judge = bench.judge_effnet(tmp_path)
    found = bench.rates(judge, pictures, 1, tmp_path / "passes")
    assert 0 < found["ratio with inspection"] < found["ratio"]
    assert found["ratio"] == pytest.approx(found["pictures/s"] / found["bare pictures/s"])
    assert len(list((tmp_path / "passes" / "1").glob("observations/features-*/part-*.safetensors"))) == 1


@pytest.mark.slow
def test_a_forward_of_the_detector_is_held_against_its_stage(bench, tmp_path):
    pictures = bench.draw(tmp_path / "pictures", 2, 64)
    judge = bench.judge_mask2former(tmp_path / "detector")
    found = bench.rates(judge, pictures, 1, tmp_path / "passes")
    assert 0 < found["ratio with inspection"] < found["ratio"]
    store = open_stores(tmp_path / "passes" / "1", [judge.stage])["detections"]
    assert all(len(store[picture]["objects"]) > 4 for picture in pictures)


def test_memory_is_taken_in_every_phase_of_a_whole_evaluation(bench, tmp_path):
    found = bench.memory(70, tmp_path)
    assert all(held.most <= found["most"] for name, held in found["phases"].items() if name != "inspect")
    assert {name: held.curve[-1][0] for name, held in found["phases"].items()} == {
        "inspect": 70,
        **{f"cells: {stage}": 70 for stage in ("features", "truth", "scores", "detections")},
        "summarise cells": 0,
    }
    assert (tmp_path / "evaluation" / "report.json").is_file()
