"""Steps of the training loop on a fresh tiny SANA. Each repeat takes one of every kind, so that a busy machine is busy
for all. Compared is CPU time of the process, which other processes disturb little; each ratio is of one repeat."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from apex_cli import build, recipe
from apex_cli.training.steps import Steps

RECIPE = """
[backbone]
name = "sana"
max_tokens = 64

[objective]
name = "apex"

[data]
name = "shapes"
size = {batch}

[train]
steps = 1000
batch = {batch}
telemetry_every = 1000000
"""
KINDS: dict[str, list[str]] = {
    "fm": ["objective.name=fm"],
    "apex self": [],
    "apex base": ["objective.real=base", "objective.lambda_e=0"],
    "apex eq25": ["objective.lambda_g=0"],
}
"""What is put over the recipe; eq25 is the paper's step as written."""


def cpu_seconds(made: Steps) -> float:
    start = time.process_time()
    made.step()
    return time.process_time() - start


def measure(batch: int, repeats: int) -> dict[str, Any]:
    text = RECIPE.format(batch=batch)
    recipes = {kind: recipe.parse(text, "step_cost.toml", changes) for kind, changes in KINDS.items()}
    plans = {kind: build.plan(read) for kind, read in recipes.items()}
    with tempfile.TemporaryDirectory() as folder:
        loops = {kind: Steps(build.job(read, Path(folder) / kind)) for kind, read in recipes.items()}
        for made in loops.values():  # measures the telemetry of step 0
            cpu_seconds(made)
        taken = [{kind: cpu_seconds(made) for kind, made in loops.items()} for _ in range(repeats)]
    rows = {}
    for kind, plan in plans.items():
        ratios = [times[kind] / times["fm"] for times in taken]
        rows[kind] = {
            "evaluations": [plan.compute.evaluations.with_gradient, plan.compute.evaluations.without_gradient],
            "flops": plan.compute.step,
            "forwards": sum(plan.compute.in_forwards.values()),
            "flops_ratio": plan.compute.step / plans["fm"].compute.step,
            "cpu_seconds": statistics.median(times[kind] for times in taken),
            "cpu_ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
        }
    return {"batch": batch, "repeats": repeats, "threads": torch.get_num_threads(), "kinds": rows}


def show(found: dict[str, Any]) -> None:
    print(f"{'step':10} {'with/without gradient':>22} {'forwards F':>11} {'FLOPs / fm':>11} {'CPU / fm (min-max)':>22}")
    for kind, row in found["kinds"].items():
        asked, cpu = "{:g} / {:g}".format(*row["evaluations"]), row["cpu_ratio"]
        spread = f"{cpu['median']:.2f} ({cpu['min']:.2f}-{cpu['max']:.2f})"
        print(f"{kind:10} {asked:>22} {row['forwards']:11.2f} {row['flops_ratio']:11.3f} {spread:>22}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the JSON document here")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = measure(options.batch, options.repeats)
    text = json.dumps(found, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)
    show(found)


if __name__ == "__main__":
    main()
