"""The shapes world under GenEval's six tasks: exact prompts, exact truth, an exact judge.

Image k of prompt i has the noise of (seed, i * images + k), whatever the model and however many prompts are evaluated,
so that two models can be compared picture by picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property

import numpy as np

from apex_cli.evaluation.records import Certificate, ImageRecord, Setting
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.evaluation.statistics import mean_of_means
from apex_cli.generation import Request, Sample
from apex_cli.worlds.shapes.detector import detect
from apex_cli.worlds.shapes.grammar import Prompt, prompts, scene_for
from apex_cli.worlds.shapes.renderer import render
from apex_cli.worlds.shapes.scoring import judge
from apex_cli.worlds.shapes.vocabulary import normalise

TRUTH_SEED = 0x7275  # apart from the seeds of training data


class ShapesSuite:
    """`requests` of a split; `score` judges the picture of one request."""

    def __init__(self, config: EvalConfig):
        self.config = config
        self.all_prompts = prompts(config.split)
        self.chosen = spread([prompt.tag for prompt in self.all_prompts], config.prompts)
        self.requests = [
            Request(normalise(self.all_prompts[i].text)[0], config.seed, i * config.images + k)
            for i in self.chosen
            for k in range(config.images)
        ]

    @cached_property
    def setting(self) -> Setting:
        text = json.dumps([asdict(self.all_prompts[i]) for i in self.chosen], sort_keys=True)
        return Setting(
            suite=self.config.suite,
            split=self.config.split,
            seed=self.config.seed,
            images_per_prompt=self.config.images,
            prompts=len(self.chosen),
            prompts_sha256=hashlib.sha256(text.encode()).hexdigest(),
        )

    def score(self, sample: Sample) -> ImageRecord:
        """Judge one image under the strict rule and under GenEval's; some 30 ms."""
        index = sample.request.index
        prompt = self._prompt(index)
        detections = detect(sample.pixels)
        strict = judge(prompt, detections)
        return ImageRecord(
            filename=f"images/{index:05d}.png",
            prompt=prompt.text,
            prompt_id=index // self.config.images,
            tag=prompt.tag,
            index=index,
            seed=sample.request.seed,
            correct=strict.correct,
            correct_geneval=judge(prompt, detections, strict=False).correct,
            reason=strict.reason,
            confidence=strict.confidence,
            color_distance=strict.color_distance,
            position_margin=strict.position_margin,
            nfe=sample.nfe,
        )

    def truth(self, records: Sequence[ImageRecord]) -> np.ndarray:
        """Renders of random scenes that satisfy the prompts of `records`, uint8 [n, 64, 64, 3]."""
        return np.stack([self._render(record.index) for record in records])

    def certify(self) -> Certificate:
        """Judge one render of every prompt, for its own prompt (ceiling) and for another one (floor)."""
        found = [detect(self._render(i * self.config.images)) for i in self.chosen]
        others = np.roll(np.random.default_rng(TRUTH_SEED).permutation(len(found)), 1)
        asked = [self.all_prompts[i] for i in self.chosen]
        tags = [prompt.tag for prompt in asked]
        own = [judge(p, d).correct for p, d in zip(asked, found, strict=True)]
        shuffled = [judge(p, found[j]).correct for p, j in zip(asked, others, strict=True)]
        return Certificate(ceiling=mean_of_means(own, tags), floor=mean_of_means(shuffled, tags), images=len(found))

    def _prompt(self, index: int) -> Prompt:
        return self.all_prompts[index // self.config.images]

    def _render(self, index: int) -> np.ndarray:
        rng = np.random.default_rng([TRUTH_SEED, self.config.seed, index])
        return render(scene_for(self._prompt(index), rng))


def spread(tags: Sequence[str], limit: int | None) -> list[int]:
    """Places of at most `limit` items: as many of each tag as of any other, evenly spaced within it, in order."""
    places: dict[str, list[int]] = {}
    for place, tag in enumerate(tags):
        places.setdefault(tag, []).append(place)
    total = min(len(tags), limit or len(tags))
    # In rounds, one item a tag, so that a small task leaves its share to the others.
    rounds = sorted((turn, tag) for tag, group in places.items() for turn in range(len(group)))[:total]
    shares = {tag: sum(name == tag for _, name in rounds) for tag in places}
    return sorted(
        places[tag][turn * len(places[tag]) // share] for tag, share in shares.items() for turn in range(share)
    )
