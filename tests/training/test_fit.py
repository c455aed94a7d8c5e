"""`apex train --plan --fit`: the smallest change that fits, each planned anew."""

from __future__ import annotations

import functools

import pytest
from tiny_runs import TINY, apex, write_recipe

from apex_cli import build, recipe
from apex_cli.errors import MemoryLimitError, UsageError
from apex_cli.training.fit import bytes_of, search

WIDE = {"backbone": {"tiny": TINY | {"layers": 2}, "max_tokens": 64}, "train": {"steps": 4, "batch": 16, "ema": 0.9}}


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_recipe(tmp_path_factory.mktemp("fit") / "r.toml", **WIDE)


@pytest.fixture(scope="module")
def replan(file):
    """Real plans of the recipe with changes, each made once."""

    @functools.cache
    def planned(changes: tuple[str, ...]):
        return build.plan(recipe.load(file, changes), gpu="h100-80gb")

    return lambda changes: planned(tuple(sorted(changes)))


@pytest.fixture(scope="module")
def fit(file, replan):
    return lambda room: search(recipe.load(file).train, None, True, f"{room}B", replan)


def peak(replan, *changes: str) -> int:
    return replan(changes).memory.peak


def test_sizes():
    assert (bytes_of("24GB"), bytes_of("1.5 GiB")) == (24 * 10**9, 3 * 2**29)
    for wrong in ("24 apples", "24"):
        with pytest.raises(UsageError, match="--fit 24"):
            bytes_of(wrong)


def test_the_micro_batch_is_halved_as_far_as_needed_and_no_further(fit, replan):
    room = peak(replan, "train.micro_batch=4")
    found = fit(room)
    assert found.changes == ("train.micro_batch=4",)
    assert found.plan.memory.peak == room < peak(replan, "train.micro_batch=8")


def test_what_fits_needs_no_change(fit):
    found = fit(10**9)
    assert (found.changes, found.tried) == ((), 1)


def test_the_painful_only_where_the_gentle_is_not_enough(fit, replan):
    """Less than any step leaves room for needs LoRA; then the average, which costs nothing any more, may come back."""
    gentle = ("train.micro_batch=1", "train.gradient_checkpointing=1.0", "train.ema=0.0")
    room = min(peak(replan, *gentle), peak(replan, *gentle, "train.precision=bf16")) - 1
    found = fit(room)
    assert "train.tuning=lora" in found.changes
    assert peak(replan, *found.changes) == found.plan.memory.peak <= room
    for change in set(found.changes) - {"train.tuning=lora"}:
        if not change.startswith(("train.micro_batch", "train.lora.rank")):
            assert peak(replan, *(kept for kept in found.changes if kept != change)) > room


def test_where_nothing_fits_it_says_what_is_missing(fit):
    with pytest.raises(MemoryLimitError) as told:
        fit(1_100_000)
    assert told.value.exit_code == 5
    assert "GB are missing, and frozen weights alone take" in told.value.message
    assert "--set train.micro_batch=1 " in told.value.remedy
    assert "--set train.tuning=lora --set train.lora.rank=4" in told.value.remedy


def test_the_command_prints_the_flags(file, capsys):
    assert apex("train", file, "--plan", "--fit", "1GB") == 0
    assert "Fits into 1 GB with: nothing changed" in capsys.readouterr().out
    assert apex("train", file, "--plan", "--fit", "lots") == 2
