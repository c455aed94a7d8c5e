"""How many prompts and images a wanted difference needs, before anything is drawn.

A prompt's mean over m images has the variance s^2 (1 + (m - 1) r) / m around its task, with s^2 = q (1 - q) at a score
q and r the correlation of two images of one prompt. Of a paired difference of two models on the same prompts the
variance is 2 (1 - c) of that, with c the correlation of the two models over prompts. Over tasks of n_t prompts whose
means weigh w_t, with the sum 1 (GenEval: all alike),

    SE^2 = sum_t w_t^2 v_t / n_t,     detectable = (z_0.975 + z_power) SE.

A task whose score is near 0 or 1 varies less, so a planner that knows the scores of the tasks is told them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil
from statistics import NormalDist

LEVEL, POWER = 0.95, 0.80


@dataclass(frozen=True)
class Design:
    """Prompts of each task, m images of each, and what is assumed of scores (in 0..1) and correlations."""

    prompts: Mapping[str, int]
    n: int
    score: float = 0.8
    correlation: float = 0.5
    """Of two images of one prompt; public logs of GenEval give 0.57 to 0.66, over tasks mixed."""
    shared: float = 0.2
    """Of two models over prompts; 0 for a comparison that is not paired."""
    scores: Mapping[str, float] | None = None
    """Per task, where known."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """What the mean of each task weighs in the overall; empty: all alike."""

    def detectable(self, copies: int = 1, power: float = POWER) -> float:
        """The smallest true difference of two models that a two-sided 5 % test finds with this power."""
        return factor(power) * (2 * (1 - self.shared)) ** 0.5 * self.standard_error(copies)

    def power(self, difference: float, copies: int = 1) -> float:
        """How often a true difference is found."""
        normal = NormalDist()
        error = (2 * (1 - self.shared)) ** 0.5 * self.standard_error(copies)
        return normal.cdf(difference / error - normal.inv_cdf((1 + LEVEL) / 2))

    def standard_error(self, copies: int = 1) -> float:
        """Of the overall of one model, with `copies` times the prompts."""
        weights = {tag: self.weights[tag] if self.weights else 1.0 for tag in self.prompts}
        parts = (weights[tag] ** 2 * self._variance(tag) / (n * copies) for tag, n in self.prompts.items())
        return sum(parts) ** 0.5 / sum(weights.values())

    def _variance(self, tag: str) -> float:
        q = self.scores.get(tag, self.score) if self.scores else self.score
        return q * (1 - q) * (1 + (self.n - 1) * self.correlation) / self.n


def factor(power: float = POWER) -> float:
    """Standard errors between no difference and one that is found with this power."""
    normal = NormalDist()
    return normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(power)


@dataclass(frozen=True)
class Choice:
    """One way to reach a wanted difference: so many prompts with n images each."""

    prompts: int
    n: int
    detectable: float
    power: float

    @property
    def images(self) -> int:
        return self.prompts * self.n


def choices(design: Design, difference: float, per_prompt: Sequence[int] = (1, 2, 4, 8)) -> list[Choice]:
    """For each number of images a prompt, the fewest whole copies of the prompt set (fresh prompts) that suffice."""
    found = []
    for n in per_prompt:
        one = replace(design, n=n)
        copies = max(1, ceil((one.detectable() / difference) ** 2))
        prompts = copies * sum(one.prompts.values())
        found.append(Choice(prompts, n, one.detectable(copies), one.power(difference, copies)))
    return found
