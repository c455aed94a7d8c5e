"""`apex train --plan --fit`: the smallest change that fits, each planned anew."""

from __future__ import annotations

import json

import pytest
from tiny_runs import TINY, apex, write_recipe

from apex_cli import build, recipe
from apex_cli.errors import MemoryLimitError, UsageError
from apex_cli.training.fit import bytes_of

WIDE = {"backbone": {"tiny": TINY | {"layers": 2}, "max_tokens": 64}, "train": {"steps": 4, "batch": 16, "ema": 0.9}}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("fit") / "r.toml", **WIDE)


def planned(file, *changes: str) -> int:
    """Peak of the recipe with changes."""
    return build.plan(recipe.load(file, changes)).memory.peak


def test_sizes():
    assert (bytes_of("24GB"), bytes_of("1.5 GiB")) == (24 * 10**9, 3 * 2**29)
    for wrong in ("24 apples", "24"):
        with pytest.raises(UsageError, match="--fit 24"):
            bytes_of(wrong)


def test_the_micro_batch_is_halved_as_far_as_needed_and_no_further(file):
    room = planned(file, "train.micro_batch=4")
    found = build.fit(recipe.load(file), f"{room}B")
    assert found.changes == ("train.micro_batch=4",)
    assert found.plan.memory.peak == room < planned(file, "train.micro_batch=8")


def test_what_fits_needs_no_change(file):
    found = build.fit(recipe.load(file), "1GB")
    assert (found.changes, found.tried) == ((), 1)


def test_a_more_painful_setting_only_where_the_gentle_ones_are_not_enough(file):
    """Without room for a third value of every weight, the average goes; precision and micro-batch then come back."""
    least = ("train.micro_batch=1", "train.gradient_checkpointing=true", "train.ema=0.0")
    room = planned(file, *least)
    found = build.fit(recipe.load(file), f"{room}B")
    assert "train.ema=0.0" in found.changes
    assert not any("lora" in change for change in found.changes)
    assert found.plan.memory.peak == planned(file, *found.changes) <= room


def test_where_nothing_fits_it_says_what_is_missing(file, capsys):
    assert apex("train", file, "--plan", "--fit", "1.1MB", "--json") == MemoryLimitError.exit_code == 5
    told = json.loads(capsys.readouterr().out)["error"]
    assert "frozen weights alone take" in told["message"]
    assert "GB are missing" in told["message"]
    assert "--set train.micro_batch=1 " in told["remedy"]
    assert "--set train.tuning=lora" in told["remedy"]


def test_the_command_prints_the_flags(file, capsys):
    assert apex("train", file, "--plan", "--fit", "1GB") == 0
    assert "Fits into 1 GB with: nothing changed" in capsys.readouterr().out
