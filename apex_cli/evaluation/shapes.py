"""The shapes world under GenEval's six tasks: exact prompts, exact truth, an exact judge.

A picture is right under the strict rule: nothing else in it, and every shape matches its template. GenEval's own rule,
which allows extra objects where the task does not count, stands beside it. The kernel distance is measured to renders
of the same prompts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any, Literal

import numpy as np

from apex_cli.config import Section
from apex_cli.evaluation.base import Item, Observation, Observed, Picture, PromptSet
from apex_cli.evaluation.kernel_distance import features, squared_mmd
from apex_cli.evaluation.records import Box, Certificate, ImageRecord, Result
from apex_cli.evaluation.scores import score, task_scores
from apex_cli.evaluation.statistics import mean_of_means
from apex_cli.worlds.shapes.detector import Detection, detect
from apex_cli.worlds.shapes.grammar import Prompt, prompts, scene_for
from apex_cli.worlds.shapes.renderer import render
from apex_cli.worlds.shapes.scoring import judge
from apex_cli.worlds.shapes.vocabulary import normalise

TRUTH_SEED = 0x7275  # apart from the seeds of training data
PER_PROMPT = 4


class ShapesConfig(Section):
    split: Literal["train", "iid", "compose", "long", "alias"] = "iid"
    """`compose` names pairs that no training prompt has."""


class Detections:
    """The exact detector, some 30 ms a picture."""

    name, uses, batch = "detections", (), 16
    identity: Mapping[str, Any] = {"detector": "shapes", "version": 1}

    def question(self, item: Item) -> str:
        return ""

    def open(self) -> None:
        """Nothing has to be loaded."""

    def prepare(self, picture: Picture) -> Any:
        return picture.pixels()

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        return [{"objects": [asdict(found) for found in detect(pixels)]} for pixels in prepared]


class Features:
    """The features of `kernel_distance`."""

    name, uses, batch = "features", (), 64
    identity: Mapping[str, Any] = {"extractor": "random convolutions", "version": 1}

    def question(self, item: Item) -> str:
        return ""

    def open(self) -> None:
        """Its filters are a function of a seed."""

    def prepare(self, picture: Picture) -> Any:
        return picture.pixels()

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        return [{"features": features(pixels[None])[0]} for pixels in prepared]


class Shapes:
    Config = ShapesConfig
    name = "shapes"
    needs = ()

    def __init__(self, config: ShapesConfig):
        self.split = config.split
        self.grammar = prompts(config.split)
        self.stages = (Detections(), Features())

    @cached_property
    def prompts(self) -> PromptSet:
        items = tuple(
            Item(
                id=f"{place:05d}",
                tag=prompt.tag,
                prompt=prompt.text,
                meta={"include": list(prompt.include), "exclude": list(prompt.exclude)},
                spoken=normalise(prompt.text)[0],
            )
            for place, prompt in enumerate(self.grammar)
        )
        return PromptSet(self.split, items, PER_PROMPT)

    def summarise(self, pictures: Sequence[Picture], seen: Mapping[str, Observed]) -> Result:
        records = [self.record(picture, seen["detections"][picture]) for picture in pictures]
        overall, geneval = score(records), score(records, by_geneval)
        return Result(
            protocol=self.name,
            tier="smoke",
            value=overall.score,
            interval=overall.interval,
            tasks=task_scores(records),
            overall=overall,
            facts={
                "overall, GenEval rule": geneval.score,
                "kernel distance": self._distance(pictures, seen["features"]),
            },
            records=records,
        )

    def record(self, picture: Picture, said: Observation) -> ImageRecord:
        """Judge one picture by what was detected in it."""
        prompt, item = self._prompt(picture.item), picture.item
        found = [Detection(**one) for one in said["objects"]]
        strict = judge(prompt, found)
        return ImageRecord(
            filename=str(picture.path),
            tag=item.tag,
            prompt=item.prompt,
            correct=strict.correct,
            reason=strict.reason,
            metadata=json.dumps({"tag": item.tag, **item.meta, "prompt": item.prompt}),
            details=json.dumps(said["objects"]),
            item=item.id,
            k=picture.k,
            score=float(strict.correct),
            failure=strict.failure,
            margin=strict.position_margin,
            boxes=tuple(Box(label=d.kind, box=d.box, score=d.confidence, color=d.color) for d in found),
            measures={
                "geneval": float(judge(prompt, found, strict=False).correct),
                "confidence": strict.confidence,
                "color_distance": strict.color_distance,
            },
            made=dict(picture.made),
        )

    def _distance(self, pictures: Sequence[Picture], seen: Observed) -> float | None:
        """x 1000; near or below 0 is perfect. None for a single picture."""
        if len(pictures) < 2:
            return None
        own = np.stack([seen[picture]["features"] for picture in pictures])
        return 1000 * squared_mmd(own, np.concatenate([features(self.truth(p)[None]) for p in pictures]))

    def truth(self, picture: Picture) -> np.ndarray:
        """A render of a random scene that satisfies the prompt of `picture`, uint8 [64, 64, 3]."""
        index = int(picture.item.id) * PER_PROMPT + picture.k
        return self._render(picture.item, picture.made.get("seed", 0), picture.made.get("index", index))

    def certify(self, items: Sequence[Item]) -> Certificate:
        """Judge one render of every prompt, for its own prompt (ceiling) and for another one (floor)."""
        found = [detect(self._render(item, 0, int(item.id) * PER_PROMPT)) for item in items]
        others = np.roll(np.random.default_rng(TRUTH_SEED).permutation(len(found)), 1)
        tags = [item.tag for item in items]
        own = [judge(self._prompt(item), d).correct for item, d in zip(items, found, strict=True)]
        shuffled = [judge(self._prompt(item), found[j]).correct for item, j in zip(items, others, strict=True)]
        return Certificate(ceiling=mean_of_means(own, tags), floor=mean_of_means(shuffled, tags), images=len(found))

    def _prompt(self, item: Item) -> Prompt:
        return self.grammar[int(item.id)]

    def _render(self, item: Item, seed: int, index: int) -> np.ndarray:
        return render(scene_for(self._prompt(item), np.random.default_rng([TRUTH_SEED, seed, index])))


def by_geneval(record: ImageRecord) -> float:
    return record.measures["geneval"] or 0.0
