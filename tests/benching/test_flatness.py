"""What counts as flat memory, by numbers and by a leak of real pages."""

from __future__ import annotations

import json
from mmap import mmap

import pytest

from apex_cli.benching.flatness import FLAT, MOMENTS, Memory, resident


def test_what_counts_is_the_memory_from_a_tenth_on():
    warmed = Memory(100, [(5, 50), (10, 100), (50, 110), (100, 105)])
    assert (warmed.early, warmed.most, warmed.flat) == (100, 110, True)
    assert warmed.growth == pytest.approx(1000 * 5 / 90)
    assert not Memory(100, [(5, 50), (10, 100), (50, 100 * FLAT + 1), (100, 100)]).flat, "be it for a moment"
    assert Memory(100, [(5, 500), (10, 100), (100, 100)]).flat, "what is given back after the start does not count"


def test_a_short_run_is_judged_by_what_there_is():
    one = Memory(3, [(3, 70)])
    assert (one.early, one.most, one.growth, one.flat) == (70, 70, 0, True)
    assert Memory(1000, [(1, 50), (2, 70)]).early == 70


def test_the_record_has_the_whole_run_at_some_moments():
    long = Memory(1050, [(done, done) for done in range(1, 1051)])
    row = json.loads(json.dumps(long.record()))
    assert (row["after_a_tenth"], row["most"], row["flat"], row["growth_per_1000"]) == (105, 1050, False, 1000)
    assert row["curve"][-1] == [1050, 1050] and MOMENTS <= len(row["curve"]) < 2 * MOMENTS


@pytest.mark.parametrize(("leak", "flat"), [(1, True), (2**22, False)])
def test_a_leak_is_seen(leak, flat):
    memory, held = Memory(100), []
    for done in range(1, 101):
        held.append(b"x" * leak)
        memory.take(done)
    assert memory.flat is flat
    assert str(memory).endswith("flat" if flat else "GROWS")


def test_memory_of_this_process_now():
    """Pages of the test's own: a bytearray may lie in what the process freed earlier and still holds."""
    before = resident()
    with mmap(-1, 64 * 2**20) as held:
        held.write(b"x" * len(held))
        assert resident() - before > 48 * 2**20
    assert resident() - before < 16 * 2**20  # not the peak
