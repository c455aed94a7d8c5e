"""Means of judged images with what must stand beside them: the interval over prompts, how alike their images are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean

from apex_cli.evaluation.records import ImageRecord, Score
from apex_cli.evaluation.statistics import ALIKE, Weights, correlation, overall, share_interval

Value = Callable[[ImageRecord], float]


def plain(record: ImageRecord) -> float:
    return record.score


def by_task(records: Sequence[ImageRecord]) -> dict[str, list[ImageRecord]]:
    """Task -> its records, in the order of first appearance."""
    groups: dict[str, list[ImageRecord]] = {}
    for record in records:
        groups.setdefault(record.tag, []).append(record)
    return groups


def by_prompt(records: Sequence[ImageRecord], value: Value = plain) -> dict[str, list[float]]:
    """Prompt id -> the value of each of its images."""
    groups: dict[str, list[float]] = {}
    for record in records:
        groups.setdefault(record.item, []).append(float(value(record)))
    return groups


def prompt_means(records: Sequence[ImageRecord], value: Value = plain) -> dict[str, list[float]]:
    """Task -> the mean of each prompt."""
    return {
        tag: [fmean(images) for images in by_prompt(group, value).values()] for tag, group in by_task(records).items()
    }


def score(records: Sequence[ImageRecord], value: Value = plain, weights: Weights = ALIKE) -> Score:
    """Mean of the task means, of values in 0..1; for the records of one task, its mean."""
    means = prompt_means(records, value)
    prompts = [images for group in by_task(records).values() for images in by_prompt(group, value).values()]
    several = max(map(len, prompts)) > 1
    return Score(
        score=overall(means, weights),
        interval=share_interval(means, weights),
        prompts=len(prompts),
        images=len(records),
        correlation=correlation(prompts),
        any_right=fmean(max(images) >= 1 for images in prompts) if several else None,
        all_right=fmean(min(images) >= 1 for images in prompts) if several else None,
    )


def task_scores(records: Sequence[ImageRecord], value: Value = plain) -> dict[str, Score]:
    return {tag: score(group, value) for tag, group in by_task(records).items()}
