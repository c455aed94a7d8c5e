"""The harness on a clock of its own: what it counts, in which order it asks, and what it says about it."""

from __future__ import annotations

import time
from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
from fake_clock import FakeClock

from apex_cli.benching.cells import Case, Cell, Overhead
from apex_cli.benching.clocks import HostClock
from apex_cli.benching.devices import Device
from apex_cli.benching.laps import CALIBRATION, Laps, Timing, mark_cost, timed
from apex_cli.benching.measure import Patience, Warmup, rounds, warm_up
from apex_cli.benching.prompts import prompts
from apex_cli.benching.run import Bench, Grid, Subject
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

    timing = timed(clock, laps, lambda: clock.pass_(30), request, lambda image: clock.pass_(10))
    assert timing == Timing(7, {"tokenise": 1, "transformer": 5, "sampler": 1}, encode=20, marks=6, prepared=30)
    assert timing.work == 57
    assert clock.synced == 2 and laps.marks == []


def test_a_clock_of_cpu_time_does_not_see_waiting():
    wall, cpu = HostClock(), HostClock(cpu_time=True)
    before = wall.mark(), cpu.mark()
    time.sleep(0.3)
    assert wall.between(before[0], wall.mark()) >= 0.3
    assert cpu.between(before[1], cpu.mark()) < 0.15


def test_a_mark_costs_what_the_clock_says():
    assert mark_cost(FakeClock(per_look=0.25)) == pytest.approx(0.25 * (CALIBRATION + 1) / CALIBRATION)


def test_overhead_is_marks_and_what_is_done_around_a_request_over_the_request_without_them():
    """The round of a hiccup is one round, not a tenth of all overhead."""
    timings = [Timing(1.25, marks=5)] * 9 + [Timing(2.25, marks=5)]
    cell = Cell(Case("m", 64, 1, 1), "fast", Warmup(), timings, around=[0.02] * 9 + [5], mark_cost=0.05)
    assert cell.overhead == Overhead(marks=0.25, around=0.02, share=0.27, low=0.27, high=0.27)


class Sitter:
    """An engine that takes its time, and its preparations too; `hooks`: seconds to be watched."""

    def __init__(self, clock: FakeClock, laps: Laps, seconds: float, hooks: float = 0.0):
        self.clock, self.laps, self.seconds, self.hooks = clock, laps, seconds, hooks

    def prepare(self, prompts):
        self.clock.pass_(7)

    def watched(self):
        self.clock.pass_(self.hooks)
        return nullcontext()

    def __call__(self, prompts, seed):
        self.laps.to("vae")
        self.clock.pass_(self.seconds)
        return []


def sat(clock: FakeClock, showing: float, hooks: dict[str, float] | None = None, **engines: float) -> Bench:
    """A benchmark of engines that take so many seconds, behind a display that takes `showing` after each event."""
    hooked = {name: (hooks or {}).get(name, 0.0) for name in engines}
    subject = Subject(
        "m", "w", 10, 0.0,
        lambda case, laps: {name: Sitter(clock, laps, s, hooked[name]) for name, s in engines.items()},
        lambda prompts: 15, 1, None, lambda *_: iter(()),
    )  # fmt: skip
    grid, device = Grid(batch=(1,), mode=tuple(engines)), Device("cpu", "x", 1, None)
    bench = Bench(subject, grid, Patience(runs=4, seconds=0, warmup=2), device, clock)
    for _ in bench.run():
        clock.pass_(showing)
    return bench


def test_a_harness_that_takes_no_time_has_no_overhead():
    assert [cell.overhead for cell in sat(FakeClock(), 0, plain=2, fast=1).cells] == [Overhead(0, 0, 0, 0, 0)] * 2


def test_a_slow_display_is_overhead_of_the_harness_and_the_engines_own_preparations_are_not():
    plain, fast = sat(FakeClock(), 0.5, plain=2, fast=1).cells
    assert plain.times == [2] * 4 and fast.times == [1] * 4
    assert plain.overhead == Overhead(0, 0.25, 0.125, 0.125, 0.125)
    assert fast.overhead == Overhead(0, 0.25, 0.25, 0.25, 0.25)


def test_hooks_are_overhead_of_the_mode_that_has_them():
    plain, fast = sat(FakeClock(), 0, {"plain": 0.5}, plain=2, fast=1).cells
    assert plain.overhead.around == 0.5 and fast.overhead.around == 0


def test_slow_marks_are_overhead_of_the_harness():
    """Three marks a request: its begin, the engine's one, its end; and the look at the clock that ends it."""
    (cell,) = sat(FakeClock(per_look=0.01), 0, fast=1).cells
    assert cell.times == pytest.approx([1.04] * 4)
    assert cell.overhead.marks == pytest.approx(0.03, rel=1e-3)
    assert cell.overhead.around > 0.01  # the harness looks at the clock between requests as well
    assert cell.overhead.share == pytest.approx((0.03 + cell.overhead.around) / 1.01, rel=1e-3)


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
