"""Two evaluations on the same prompts and seeds, image by image.

A difference is of the values that both reports print: the tasks weigh what the protocol says, in its scale.
"""

from __future__ import annotations

from pathlib import Path

from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.evaluation.comparable import judge, require_equal
from apex_cli.evaluation.records import ImageRecord, Interval, Report, Result, read_records, read_report
from apex_cli.evaluation.scores import by_task, prompt_means
from apex_cli.evaluation.statistics import ALIKE, Strata, Weights, detectable, holm, interval, overall, sign_flip_p

TOLD = "These evaluations cannot be compared"
REMEDY = "Evaluate both with the same --suite, --split, --seed, --n and --prompts."


class Difference(Section):
    """First minus second. `wins`: images that the first has more right, `losses` the second, `ties` the rest."""

    difference: float
    interval: Interval | None
    """None where a task has one prompt, or all prompts differ by the same."""
    p: float
    """Sign-flip permutation over prompts; of a task, corrected for the number of tasks (Holm)."""
    wins: int
    losses: int
    ties: int
    detectable: float | None
    """The smallest true difference that this many prompts show in 80 % of cases; None as the interval."""

    def __str__(self) -> str:
        between = "[{:+.3f}, {:+.3f}]".format(*self.interval) if self.interval else "no interval"
        seen = "" if self.detectable is None else f"; differences from {self.detectable:.3f} can be seen"
        counts = f"{self.wins} won, {self.losses} lost, {self.ties} tied"
        return f"{self.difference:+.3f} {between}, p = {self.p:.4f}; {counts}{seen}"


class Comparison(Section):
    first: Path
    second: Path
    protocol: str
    pairs: int
    """Images that both have judged."""
    unpaired: int
    """Images that only one of them has judged, which are left out."""
    overall: Difference
    tasks: dict[str, Difference]

    @property
    def paired(self) -> str:
        """How many of the images are compared, e.g. "2,210 of 2,212 pairs"."""
        return f"{self.pairs:,} of {self.pairs + self.unpaired:,} pairs"


def compare(first: Path, second: Path) -> list[Comparison]:
    """Every protocol that has scored single images in both; unequal settings raise `UsageError` that names them."""
    a, b = read_report(first), read_report(second)
    require_equal_settings(a, b)
    skipped = {name for report in (a, b) for name, result in report.results.items() if result.status == "skipped"}
    shared = [name for name in a.results if name in b.results and name not in skipped]
    names = [name for name in shared if read_records(first, name)]
    for name in names:
        require_equal_judges(name, a, b)
    return [_compare(first, second, a.results[name]) for name in names]


def _compare(first: Path, second: Path, result: Result) -> Comparison:
    a, b, unpaired = paired(first, second, result.protocol)
    if not a:
        raise UsageError(f"{TOLD}: no image is judged in both.", REMEDY)
    differences = prompt_differences(a, b, result.scale)
    corrected = holm([sign_flip_p({tag: values}) for tag, values in differences.items()])
    tasks = {
        tag: _difference({tag: values}, by_task(a)[tag], by_task(b)[tag], p)
        for (tag, values), p in zip(differences.items(), corrected, strict=True)
    }
    # Without tasks the value is the mean over all prompts, whatever their tags.
    whole = differences if result.tasks else {"": [d for values in differences.values() for d in values]}
    return Comparison(
        first=first,
        second=second,
        protocol=result.protocol,
        pairs=len(a),
        unpaired=unpaired,
        overall=_difference(whole, a, b, sign_flip_p(whole, result.weights), result.weights),
        tasks=tasks,
    )


def require_equal_settings(first: Report, second: Report) -> None:
    """Models and samplers may differ; prompts, seeds and images per prompt may not. Images of other people have no
    seed, so that they are paired by prompt alone."""
    a, b = first.setting.model_dump(), second.setting.model_dump()
    names = [name for name in a if name != "seed" or None not in (a[name], b[name])]
    require_equal({name: a[name] for name in names}, {name: b[name] for name in names}, TOLD, REMEDY)


def require_equal_judges(protocol: str, first: Report, second: Report) -> None:
    """The same judge and as many images; a number of images that differs is not comparable."""
    a, b = first.results[protocol], second.results[protocol]
    require_equal({"judge": judge(a), "images": a.found}, {"judge": judge(b), "images": b.found}, TOLD, REMEDY)


def paired(first: Path, second: Path, protocol: str) -> tuple[list[ImageRecord], list[ImageRecord], int]:
    """The records of both folders, the same image of the same prompt at the same place, and how many have no other."""
    a, b = ({(r.item, r.k): r for r in read_records(folder, protocol)} for folder in (first, second))
    shared = [slot for slot in a if slot in b]
    return [a[slot] for slot in shared], [b[slot] for slot in shared], len(a.keys() ^ b.keys())


def prompt_differences(first: list[ImageRecord], second: list[ImageRecord], scale: float) -> dict[str, list[float]]:
    """Task -> difference of the prompt means, one a prompt, times `scale`."""
    a, b = prompt_means(first), prompt_means(second)
    return {tag: [scale * (x - y) for x, y in zip(a[tag], b[tag], strict=True)] for tag in a}


def _difference(
    strata: Strata, first: list[ImageRecord], second: list[ImageRecord], p: float, weights: Weights = ALIKE
) -> Difference:
    gains = [x.score - y.score for x, y in zip(first, second, strict=True)]
    return Difference(
        difference=overall(strata, weights),
        interval=interval(strata, weights),
        p=p,
        wins=sum(gain > 0 for gain in gains),
        losses=sum(gain < 0 for gain in gains),
        ties=sum(gain == 0 for gain in gains),
        detectable=detectable(strata, weights),
    )
