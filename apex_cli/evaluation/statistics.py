"""Intervals and comparisons whose unit is the prompt: images of one prompt are not independent.

A score T is the mean of task means, each over the prompts of the task; a protocol may weigh the tasks. Its interval is
the percentile bootstrap that draws prompts with replacement within each task; where all prompts are right, or all
wrong, every draw is the same, and it is Wilson's. Two models on the same prompts and seeds are compared by the
differences d_i of their prompt means: the interval is the bootstrap of d, and

    p = (1 + #{|T(s d)| >= |T(d)|}) / (1 + R),   s_i = +-1 at random (sign flips, Phipson and Smyth 2010).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from apex_cli.bootstrap import AT_ONCE, LEVEL, RESAMPLES, SEED, bounds, means

DETECTABLE = 2.8  # standard errors that a two-sided 5 % test finds with 80 % power

Strata = Mapping[str, Sequence[float]]
"""Task -> one value a prompt."""
Weights = Mapping[str, float]
"""Task -> what its mean weighs in the overall; those of tasks that are not there go to the others. Empty: all alike."""
ALIKE: Weights = {}


def mean_of_means(values: Sequence[float], tags: Sequence[str]) -> float:
    """Plain mean of the means of each tag, as GenEval's overall."""
    groups: dict[str, list[float]] = {}
    for value, tag in zip(values, tags, strict=True):
        groups.setdefault(tag, []).append(float(value))
    return overall(groups)


def overall(strata: Strata, weights: Weights = ALIKE) -> float:
    return fmean(map(fmean, strata.values()), _weights(strata, weights))


def _weights(strata: Strata, weights: Weights) -> list[float]:
    return [weights[tag] if weights else 1.0 for tag in strata]


def _shares(strata: Strata, weights: Weights) -> np.ndarray:
    """The same with the sum 1."""
    own = np.array(_weights(strata, weights))
    return own / own.sum()


def resampled(strata: Strata, weights: Weights = ALIKE) -> np.ndarray:
    """The overall of `RESAMPLES` bootstrap draws of prompts, stratified by task: float [RESAMPLES]."""
    rng = np.random.default_rng(SEED)
    own = [means(values, rng) for values in strata.values()]
    return np.average(own, axis=0, weights=_weights(strata, weights))


def interval(strata: Strata, weights: Weights = ALIKE) -> tuple[float, float] | None:
    """The 95 % percentile interval of the overall; for one task, pass one stratum. None where draws cannot tell: a task
    has one prompt, or no task has prompts that differ."""
    return bounds(resampled(strata, weights)) if _can_tell(strata) else None


def _can_tell(strata: Strata) -> bool:
    return min(map(len, strata.values())) > 1 and any(map(np.ptp, strata.values()))


def share_interval(strata: Strata, weights: Weights = ALIKE) -> tuple[float, float] | None:
    """The same for scores in 0..1. Where all prompts are right, or all wrong, Wilson's interval of so many prompts."""
    values = [value for group in strata.values() for value in group]
    if len(values) == 1 or set(values) not in ({0.0}, {1.0}):
        return interval(strata, weights)
    from scipy.stats import binomtest

    found = binomtest(round(sum(values)), len(values)).proportion_ci(LEVEL, method="wilson")
    return float(found.low), float(found.high)


def sign_flip_p(differences: Strata, weights: Weights = ALIKE) -> float:
    """Two-sided p of "no difference" for the overall of paired differences."""
    rng = np.random.default_rng(SEED)
    own = zip(_shares(differences, weights), differences.values(), strict=True)
    weighted = np.concatenate([share * np.asarray(d, float) / len(d) for share, d in own])
    parts = (rng.choice((-1.0, 1.0), size=(AT_ONCE, len(weighted))) for _ in range(RESAMPLES // AT_ONCE))
    extreme = sum((np.abs(signs @ weighted) >= abs(weighted.sum()) - 1e-12).sum() for signs in parts)
    return float((1 + extreme) / (1 + RESAMPLES))


def detectable(differences: Strata, weights: Weights = ALIKE) -> float | None:
    """The smallest true difference that so many prompts would show in 80 % of cases; None where draws cannot tell."""
    return float(DETECTABLE * resampled(differences, weights).std()) if _can_tell(differences) else None


def correlation(prompts: Sequence[Sequence[float]]) -> float | None:
    """Intra-class correlation of the images of one prompt (one-way ANOVA): 1 where a prompt decides everything.

    (MSB - MSW) / (MSB + (m - 1) MSW), with the mean squares between and within prompts and m images a prompt
    (their weighted mean where it varies). None with one image a prompt, or where nothing varies.
    """
    groups = [np.asarray(images, float) for images in prompts]
    sizes = np.array([len(g) for g in groups])
    total, count = sizes.sum(), len(groups)
    if count < 2 or total == count:
        return None
    mean = np.concatenate(groups).mean()
    between = sum(len(g) * (g.mean() - mean) ** 2 for g in groups) / (count - 1)
    within = sum(((g - g.mean()) ** 2).sum() for g in groups) / (total - count)
    m = (total - (sizes**2).sum() / total) / (count - 1)
    spread = between + (m - 1) * within
    return float((between - within) / spread) if spread else None


def holm(p_values: Sequence[float]) -> list[float]:
    """p values corrected for their number (Holm 1979), in the order given."""
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return corrected.tolist()
