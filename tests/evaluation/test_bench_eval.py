"""`scripts/bench-eval` on a handful of pictures: it measures the real stages and the real run."""

from __future__ import annotations

import pytest
from scripts_as_modules import load_script


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


def test_memory_is_taken_in_every_phase_of_a_whole_evaluation(bench, tmp_path):
    found = bench.memory(70, tmp_path)
    assert set(found["phases"]) == {"inspect", "cells: features", "cells: truth", "cells: scores", "summarise cells"}
    assert all(held.most <= found["most"] for name, held in found["phases"].items() if name != "inspect")
    assert {name: held.curve[-1][0] for name, held in found["phases"].items()} == {
        "inspect": 70, "cells: features": 70, "cells: truth": 70, "cells: scores": 70, "summarise": 1
    }  # fmt: skip
    assert (tmp_path / "evaluation" / "report.json").is_file()
