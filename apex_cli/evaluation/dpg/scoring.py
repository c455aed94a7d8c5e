"""DPG-Bench's arithmetic. Of one picture, with s_q in {0, 1} whether question q was answered yes:

    s_q <- 0  where s_p = 0 for any parent p, in the order of the file, so that zeros run on
    score = mean_q s_q

A prompt is the mean of its pictures, Overall the mean over prompts. The categories take the answers BEFORE the zeros,
pooled over questions, which is why all five may lie above Overall; the official script takes them from the last picture
of each prompt alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from apex_cli.bootstrap import SEED, bounds, rows
from apex_cli.evaluation.dpg.propositions import CATEGORIES, Proposition
from apex_cli.evaluation.records import Score
from apex_cli.evaluation.statistics import share_interval

PERCENT = 100


def cascade(propositions: Mapping[int, Proposition], yes: Mapping[int, bool]) -> dict[int, bool]:
    """The scores after the zeros; a parent that is not there raises `KeyError`."""
    scores = dict(yes)
    for id_, proposition in propositions.items():
        if not all(scores[parent] for parent in proposition.parents):
            scores[id_] = False
    return scores


def without_lost_parents(propositions: Mapping[int, Proposition]) -> dict[int, Proposition]:
    """The propositions with only those parents that are there."""
    return {
        id_: Proposition(p.id, tuple(parent for parent in p.parents if parent in propositions), p.category, p.question)
        for id_, p in propositions.items()
    }


Pooled = dict[str, dict[str, list[bool]]]
"""Category -> prompt -> answers."""


def categories(
    answered: Mapping[str, Sequence[Mapping[int, bool]]],
    asked: Mapping[str, Mapping[int, Proposition]],
    last_only: bool,
) -> Pooled:
    """Answers by category. `answered`: prompt -> of each of its pictures id -> yes; `asked`: prompt -> propositions."""
    pooled: Pooled = {}
    for item, views in answered.items():
        for yes in views[-1:] if last_only else views:
            for id_, proposition in asked[item].items():
                pooled.setdefault(proposition.level1, {}).setdefault(item, []).append(yes[id_])
    known = [name for name in CATEGORIES if name in pooled]
    return {name: pooled[name] for name in [*known, *sorted(pooled.keys() - set(known))]}


def pooled_score(prompts: Mapping[str, Sequence[bool]], images: int) -> Score:
    """Share of yes among all questions, in percent; the interval is of a bootstrap over prompts."""
    right = np.array([sum(answers) for answers in prompts.values()], float)
    total = np.array([len(answers) for answers in prompts.values()], float)
    pooled = float(right.sum() / total.sum())
    if np.ptp(right / total):
        draws = rows(len(total), np.random.default_rng(SEED))
        interval = bounds(right[draws].sum(1) / total[draws].sum(1))
    else:
        interval = share_interval({"": [pooled] * len(total)})
    return percent(Score(score=pooled, interval=interval, prompts=len(total), images=images))


def percent(score: Score) -> Score:
    """The same in percent."""
    interval = score.interval and (PERCENT * score.interval[0], PERCENT * score.interval[1])
    return score.model_copy(update={"score": PERCENT * score.score, "interval": interval})
