"""Two evaluations on the same prompts and seeds, image by image."""

from __future__ import annotations

from pathlib import Path

from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.evaluation.records import ImageRecord, Interval, Report, read_records, read_report
from apex_cli.evaluation.run import by_task, prompt_means
from apex_cli.evaluation.statistics import Strata, detectable, holm, interval, overall, sign_flip_p


class Difference(Section):
    """First minus second. `wins`: images that only the first has right, `losses` only the second, `ties` the rest."""

    difference: float
    interval: Interval
    p: float
    """Sign-flip permutation over prompts; of a task, corrected for the number of tasks (Holm)."""
    wins: int
    losses: int
    ties: int


class Comparison(Section):
    first: Path
    second: Path
    overall: Difference
    tasks: dict[str, Difference]
    detectable: float
    """The smallest true difference that this many prompts show in 80 % of cases."""


def compare(first: Path, second: Path) -> Comparison:
    """Compare two evaluation folders; unequal settings raise `UsageError` that names them."""
    require_equal_settings(read_report(first), read_report(second))
    a, b = paired(first, second)
    differences = prompt_differences(a, b)
    corrected = holm([sign_flip_p({tag: values}) for tag, values in differences.items()])
    tasks = {
        tag: _difference({tag: values}, by_task(a)[tag], by_task(b)[tag], p)
        for (tag, values), p in zip(differences.items(), corrected, strict=True)
    }
    return Comparison(
        first=first,
        second=second,
        overall=_difference(differences, a, b, sign_flip_p(differences)),
        tasks=tasks,
        detectable=detectable(differences),
    )


def require_equal_settings(first: Report, second: Report) -> None:
    """Models and samplers may differ; prompts, seeds and images per prompt may not."""
    a, b = first.setting.model_dump(), second.setting.model_dump()
    unequal = [f"{name} ({a[name]} and {b[name]})" for name in a if a[name] != b[name]]
    if unequal:
        raise UsageError(
            f"These evaluations cannot be compared: they differ in {', '.join(unequal)}.",
            "Evaluate both with the same --suite, --split, --seed, --images and --prompts.",
        )


def paired(first: Path, second: Path) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """The records of both folders, the same index at the same place."""
    a, b = read_records(first), read_records(second)
    indices = sorted(a.keys() & b.keys())
    return [a[i] for i in indices], [b[i] for i in indices]


def prompt_differences(first: list[ImageRecord], second: list[ImageRecord]) -> dict[str, list[float]]:
    """Task -> difference of the prompt means, one a prompt."""
    a, b = prompt_means(first), prompt_means(second)
    return {tag: [x - y for x, y in zip(a[tag], b[tag], strict=True)] for tag in a}


def _difference(strata: Strata, first: list[ImageRecord], second: list[ImageRecord], p: float) -> Difference:
    outcomes = [int(x.correct) - int(y.correct) for x, y in zip(first, second, strict=True)]
    return Difference(
        difference=overall(strata),
        interval=interval(strata),
        p=p,
        wins=outcomes.count(1),
        losses=outcomes.count(-1),
        ties=outcomes.count(0),
    )
