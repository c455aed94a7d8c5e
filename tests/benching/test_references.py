"""The paper's figures, and which of them can be a yardstick."""

from __future__ import annotations

import pytest

from apex_cli import gpus
from apex_cli.benching import references
from apex_cli.benching.references import Reference, implied_rate, of, verdict

A100 = gpus.find_any("a100")
QWEN, SANA = 15.674e12, 0.3156e12
"""FLOPs of an evaluation at 512 px."""


def test_every_row_has_a_source_and_a_figure():
    for row in references.references():
        assert row.source in references.sources()
        assert row.latency or row.throughput
        assert row.gpu in gpus.FAMILIES


def test_rows_of_a_cell():
    found = of("qwen-image", gpus.find("a100-80gb"), 1, 1)
    assert {(row.method, row.latency) for row in found} == {
        ("APEX, LoRA r = 64", 0.39), ("APEX, LoRA r = 32", 0.39), ("APEX, full", 0.34),
    }  # fmt: skip
    assert of("qwen-image", gpus.find("h100-80gb"), 1, 1) == []
    assert of("qwen-image", None, 1, 1) == []
    assert of("qwen-image", A100, 1, 7) == []


def told(model: str, nfe: int, batch: int, resolution: int, flops: float) -> set[str]:
    rows = of(model, A100, nfe, batch)
    assert rows
    return {verdict(row, batch, resolution, flops, A100, references.references()) for row in rows}


def test_the_papers_throughput_at_two_evaluations_cannot_be():
    one, two = (next(r for r in of("qwen-image", A100, n, 10) if "64" in r.method) for n in (1, 2))
    assert implied_rate(one, two, QWEN) == pytest.approx(1.62e15, rel=0.01)  # five times the peak
    assert told("qwen-image", 2, 10, 512, QWEN) == {"impossible"}


def test_its_latency_can_be_at_512_px_but_not_at_1024():
    assert "impossible" not in {v for v in told("qwen-image", 2, 1, 512, QWEN) if v == "impossible"}
    assert told("qwen-image", 2, 1, 1024, 69.3e12) == {"impossible"}


def test_a_figure_without_a_resolution_is_no_yardstick():
    assert told("qwen-image", 1, 1, 512, QWEN) == {"not comparable (resolution unknown)"}
    assert told("sana-600m", 2, 10, 512, SANA) == {"not comparable (resolution unknown)"}


def test_a_figure_of_this_resolution_is_one():
    row = Reference("qwen-image", "a100", 4, "x", "512", "vllm-omni", latency=0.41)
    assert verdict(row, 1, 512, QWEN, A100, []) == "comparable"
    assert verdict(row, 1, 1024, QWEN, A100, []) == "not comparable (another resolution)"
