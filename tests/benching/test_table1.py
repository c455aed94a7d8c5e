"""`scripts/reproduce-table1 --tiny`, as a user without a GPU runs it."""

from __future__ import annotations

import json
import subprocess
from itertools import product
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("model", ["qwen-image", "sana-600m"])
def test_the_cpu_mode_runs(model, tmp_path):
    script = [ROOT / "scripts" / "reproduce-table1", "--tiny", "--models", model, "--out", tmp_path]
    done = subprocess.run(script, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (
        "== 2 of 2 done in " in done.stderr and f"measure {model} (tiny) 64 px batch 10 nfe 2 (4 of 4)" in done.stderr
    )
    both, alone = (json.loads((tmp_path / name / "bench.json").read_text()) for name in (model, f"{model}-fast-alone"))
    modes = ("plain", "fast", "cached", "diffusers")
    assert {(c["batch"], c["nfe"], c["mode"]) for c in both["cells"]} == set(product((1, 10), (1, 2), modes))
    assert {(c["batch"], c["nfe"], c["mode"]) for c in alone["cells"]} == set(product((1,), (1, 2), ("fast",)))
    assert all((c["over_diffusers"] is None) == (c["mode"] == "diffusers") for c in both["cells"])
    assert alone["parameters"] < both["parameters"]  # what was folded away is not held
    assert both["clock"] == "cpu" and both["device"]["kind"] == "cpu"
