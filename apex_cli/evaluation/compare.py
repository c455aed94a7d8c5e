"""Two evaluations on the same prompts and seeds, image by image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.evaluation.records import ImageRecord, Interval, Report, read_records, read_report
from apex_cli.evaluation.scores import by_task, prompt_means
from apex_cli.evaluation.statistics import Strata, detectable, holm, interval, overall, sign_flip_p


class Difference(Section):
    """First minus second. `wins`: images that the first has more right, `losses` the second, `ties` the rest."""

    difference: float
    interval: Interval
    p: float
    """Sign-flip permutation over prompts; of a task, corrected for the number of tasks (Holm)."""
    wins: int
    losses: int
    ties: int
    detectable: float
    """The smallest true difference that this many prompts show in 80 % of cases."""


class Comparison(Section):
    first: Path
    second: Path
    protocol: str
    overall: Difference
    tasks: dict[str, Difference]


def compare(first: Path, second: Path) -> list[Comparison]:
    """Every protocol of both that judges single images; unequal settings raise `UsageError` that names them."""
    a, b = read_report(first), read_report(second)
    require_equal_settings(a, b)
    names = [name for name in a.results if name in b.results and read_records(first, name)]
    for name in names:
        require_equal_judges(name, a, b)
    return [_compare(first, second, name) for name in names]


def _compare(first: Path, second: Path, protocol: str) -> Comparison:
    a, b = paired(first, second, protocol)
    differences = prompt_differences(a, b)
    corrected = holm([sign_flip_p({tag: values}) for tag, values in differences.items()])
    tasks = {
        tag: _difference({tag: values}, by_task(a)[tag], by_task(b)[tag], p)
        for (tag, values), p in zip(differences.items(), corrected, strict=True)
    }
    return Comparison(
        first=first,
        second=second,
        protocol=protocol,
        overall=_difference(differences, a, b, sign_flip_p(differences)),
        tasks=tasks,
    )


def require_equal_settings(first: Report, second: Report) -> None:
    """Models and samplers may differ; prompts, seeds and images per prompt may not. Images of other people have no
    seed, so that they are paired by prompt alone."""
    a, b = first.setting.model_dump(), second.setting.model_dump()
    names = [name for name in a if name != "seed" or None not in (a[name], b[name])]
    _require({name: a[name] for name in names}, {name: b[name] for name in names})


def require_equal_judges(protocol: str, first: Report, second: Report) -> None:
    """The same judge and as many images; a number of images that differs is not comparable."""
    a, b = first.results[protocol], second.results[protocol]
    _require({"judge": a.identity, "images": a.found}, {"judge": b.identity, "images": b.found})


def _require(a: dict[str, Any], b: dict[str, Any]) -> None:
    unequal = [f"{name} ({a[name]} and {b[name]})" for name in a if a[name] != b[name]]
    if unequal:
        raise UsageError(
            f"These evaluations cannot be compared: they differ in {', '.join(unequal)}.",
            "Evaluate both with the same --suite, --split, --seed, --n and --prompts.",
        )


def paired(first: Path, second: Path, protocol: str) -> tuple[list[ImageRecord], list[ImageRecord]]:
    """The records of both folders, the same image of the same prompt at the same place."""
    a, b = ({(r.item, r.k): r for r in read_records(folder, protocol)} for folder in (first, second))
    shared = [slot for slot in a if slot in b]
    return [a[slot] for slot in shared], [b[slot] for slot in shared]


def prompt_differences(first: list[ImageRecord], second: list[ImageRecord]) -> dict[str, list[float]]:
    """Task -> difference of the prompt means, one a prompt."""
    a, b = prompt_means(first), prompt_means(second)
    return {tag: [x - y for x, y in zip(a[tag], b[tag], strict=True)] for tag in a}


def _difference(strata: Strata, first: list[ImageRecord], second: list[ImageRecord], p: float) -> Difference:
    gains = [x.score - y.score for x, y in zip(first, second, strict=True)]
    return Difference(
        difference=overall(strata),
        interval=interval(strata),
        p=p,
        wins=sum(gain > 0 for gain in gains),
        losses=sum(gain < 0 for gain in gains),
        ties=sum(gain == 0 for gain in gains),
        detectable=detectable(strata),
    )
