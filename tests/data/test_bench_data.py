"""scripts/bench-data at its smallest: what it counts, and that it would see memory grow."""

from __future__ import annotations

import json
import sys

import pytest
from scripts_as_modules import load_script


@pytest.fixture(scope="module")
def bench():
    return load_script("bench_data")


def test_tiny(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench-data", "--size", "tiny", "--json", str(tmp_path / "found.json")])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 0
    found = json.loads((tmp_path / "found.json").read_text())
    for row in found["rates"].values():
        ratio = row["ratio"]
        assert 0 < ratio["low"] <= ratio["value"] <= ratio["high"]
        assert min(row["images/s"], row["bare images/s"]) > 0
    for row in found["memory"].values():
        assert len(row["curve"]) == 20  # one for each of its batches
        assert row["curve"][-1][0] == 320
    told, progress = capsys.readouterr()
    assert [line.split()[0] for line in told.splitlines()] == ["writer", "packing", "reader", "writing", "reading"]
    assert "rates, rounds: 3 of 3" in progress


@pytest.mark.parametrize(("low", "high", "fine"), [(0.6, 0.7, True), (0.4, 0.6, True), (0.3, 0.4, False)])
def test_what_is_asked_for_is_missed_where_the_whole_interval_is_below(bench, low, high, fine):
    row = {"images/s": 1.0, "bare images/s": 2.0, "ratio": {"value": (low + high) / 2, "low": low, "high": high}}
    assert bench.tell({"size": {"many": 1}, "rates": {"writer": row}, "memory": {}}, {"writer": 0.5}) is fine
