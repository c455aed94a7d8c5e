"""The harness on a clock of its own: what it counts, in which order it asks, and what it says about it."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from fake_clock import FakeClock

from apex_cli.benching.clocks import HostClock
from apex_cli.benching.laps import CALIBRATION, Laps, Timing, mark_cost, timed
from apex_cli.benching.measure import Patience, rounds, warm_up
from apex_cli.benching.prompts import prompts
from apex_cli.benching.statistics import paired_ratio, quotient, ratio, spread
from apex_cli.benching.steps import measure


def given(*seconds: float):
    """An `ask` that takes these times one after another."""
    times = iter(seconds)
    return lambda: Timing(next(times))


def total(timing: Timing) -> float:
    return timing.total


def test_stages_are_the_times_between_marks_and_encoding_comes_after_the_total():
    clock = FakeClock()
    laps = Laps(clock)

    def request():
        clock.pass_(1)  # tokenise: a request begins there
        for seconds in (2, 3):  # two evaluations add up
            laps.to("transformer")
            clock.pass_(seconds)
            laps.to("sampler")
            clock.pass_(0.5)
        return ["a", "b"]

    timing = timed(clock, laps, request, lambda image: clock.pass_(10))
    assert timing == Timing(7, {"tokenise": 1, "transformer": 5, "sampler": 1}, encode=20, marks=6)
    assert clock.synced == 2 and laps.marks == []


def test_a_clock_of_cpu_time_does_not_see_waiting():
    wall, cpu = HostClock(), HostClock(cpu_time=True)
    before = wall.mark(), cpu.mark()
    time.sleep(0.3)
    assert wall.between(before[0], wall.mark()) >= 0.3
    assert cpu.between(before[1], cpu.mark()) < 0.15


def test_a_mark_costs_what_the_clock_says():
    assert mark_cost(FakeClock(per_look=0.25)) == pytest.approx(0.25 * (CALIBRATION + 1) / CALIBRATION)


def test_warm_up_ends_when_the_last_runs_agree():
    warmup = warm_up(given(9, 5, 2, 1.015, 1.0, 1.01, 7), total, Patience(agreeing=3, tolerance=0.02))
    assert [run.total for run in warmup.runs] == [9, 5, 2, 1.015, 1.0, 1.01]
    assert warmup.stable


def test_the_cold_run_never_counts_as_agreeing():
    assert len(warm_up(given(1, 1, 1, 1, 1), total, Patience(agreeing=3)).runs) == 4


def test_warm_up_gives_up_and_says_so():
    warmup = warm_up(given(*range(1, 99)), total, Patience(warmup=7))
    assert len(warmup.runs) == 7 and not warmup.stable


def test_rounds_alternate_their_order_and_last_long_enough():
    clock, asked = FakeClock(), []

    def subject(name: str):
        def ask(number: int) -> str:
            asked.append(name)
            clock.pass_(1)
            return f"{name}{number}"

        return ask

    made = list(rounds({"a": subject("a"), "b": subject("b")}, clock.wall, least=2, seconds=7))
    assert "".join(asked) == "abbaabba"  # two rounds would take 4 seconds
    assert made[1] == {"a": "a1", "b": "b1"} and list(made[1]) == ["a", "b"]


@pytest.mark.parametrize(("runs", "batch", "least"), [(0, 1, 50), (0, 10, 20), (7, 10, 7)])
def test_how_many_rounds(runs, batch, least):
    assert Patience(runs=runs).least(batch) == least


def test_how_many_rounds_there_will_be():
    patience = Patience(runs=10, seconds=30)
    assert patience.expected(batch=1, done=2, elapsed=4) == 15  # 2 seconds each
    assert patience.expected(batch=1, done=2, elapsed=20) == 10  # 10 seconds each: the least
    assert patience.expected(batch=1, done=12, elapsed=36) == 12
    assert patience.expected(batch=1, done=1, elapsed=0) == 10


def test_spread_of_known_times():
    found = spread([float(n) for n in range(1, 102)])
    assert (found.median.value, found.p5, found.p90, found.p95, found.n) == (51, 6, 91, 96, 101)
    assert 35 < found.median.low < 51 < found.median.high < 67


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    rng = np.random.default_rng(1)
    found = [spread(rng.lognormal(0, 0.5, 40)).median for _ in range(60)]
    inside = sum(i.low <= 1 <= i.high for i in found)
    assert 52 <= inside <= 59


def test_a_paired_ratio_does_not_see_what_meets_both():
    rng = np.random.default_rng(2)
    busy = rng.lognormal(0, 1, 60)
    found = paired_ratio(busy * 0.5, busy)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))
    apart = ratio(busy * 0.5, rng.lognormal(0, 1, 60))
    assert apart.high - apart.low > 0.2


def test_a_quotient_compares_ratios_of_two_jobs():
    calm, busy = np.full(30, 1.0), np.linspace(1, 3, 30)
    found = quotient((0.6 * busy, busy), (0.5 * calm, calm))
    assert found.value == pytest.approx(1.2)
    assert found.low == pytest.approx(1.2)


def test_steps_are_taken_in_turn_and_the_first_rounds_do_not_count():
    clock, taken = FakeClock(), {}
    steps = {"ours": lambda: clock.pass_(3), "plain": lambda: clock.pass_(1)}
    events = list(measure(steps, clock, 4, taken, warmup=2))
    assert taken == {"ours": [3.0] * 4, "plain": [1.0] * 4}
    assert events[-1].done == events[-1].total == 6


def test_prompts_have_their_length_and_do_not_come_twice():
    short, long = prompts(80, 10), prompts(500, 64, first=7)
    assert {len(text.split()) for text in short} == {10} and {len(text.split()) for text in long} == {64}
    assert len(set(short)) == 80 and len(set(long)) == 500
    assert prompts(1, 10, first=5) == [short[5]]
    assert all(a != b for a, b in pairwise(prompts(200, 10)))
