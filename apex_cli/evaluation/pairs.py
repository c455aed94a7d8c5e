"""Scores of a picture with its prompt: one number a pair, their mean with its interval over prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from apex_cli.config import Section
from apex_cli.evaluation import canary
from apex_cli.evaluation.assets import Asset, Found
from apex_cli.evaluation.base import Item, Observation, Observed, Picture, PromptSet
from apex_cli.evaluation.features import accelerator
from apex_cli.evaluation.guests import Guest, Unfit
from apex_cli.evaluation.needs import Package
from apex_cli.evaluation.records import Certificate, ImageRecord, Result
from apex_cli.evaluation.scores import prompt_means
from apex_cli.evaluation.statistics import interval

VERSION = 1
PROMPTS = ("a photo of a red cube", "two hearts above a ring")
"""Of the canary."""


@dataclass(frozen=True)
class PairScorer:
    """`prepare`: uint8 [H, W, 3] -> float32 [3, h, w], by threads; `load`: what maps pictures [B, 3, h, w] and B
    prompts to B scores, a module with `.to`."""

    identity: Mapping[str, Any]
    prepare: Callable[[np.ndarray], Tensor]
    load: Callable[[], Callable[[Tensor, list[str]], Tensor]]


class PairStage:
    """Observes {"score": float} of picture and prompt. `batch`: pictures in one pass of the model."""

    name, uses = "scores", ()

    def __init__(self, scorer: PairScorer, batch: int):
        self.scorer, self.batch = scorer, batch
        self.identity = {**scorer.identity, "version": VERSION}
        self.model: Any = None

    def question(self, item: Item) -> str:
        return item.prompt

    def open(self) -> None:
        if self.model is None:
            model = self.scorer.load()
            canary.check(self.identity, self.scorer.prepare, _asked(model), accelerator())
            self.model = model

    def prepare(self, picture: Picture) -> Tensor:
        if not picture.item.prompt:
            raise ValueError("has no prompt")
        return self.scorer.prepare(picture.pixels())

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        pixels = torch.stack(list(prepared)).to(accelerator())
        with torch.inference_mode():
            scores = self.model(pixels, [picture.item.prompt for picture in pictures])
        return [{"score": value} for value in scores.float().tolist()]


def _asked(model: Any) -> Any:
    """The scores of each picture with every prompt of the canary, as features [B, len(PROMPTS)]."""

    class Asked(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, pixels: Tensor) -> Tensor:
            return torch.stack([self.model(pixels, [prompt] * len(pixels)) for prompt in PROMPTS], 1)

    return Asked()


class PairConfig(Section):
    weights: Path | None = None
    """Folder or file of the model, where it is not in a cache."""
    forward: int = Field(default=32, ge=1)
    """Pictures in one pass of the model."""


class PairProtocol(Guest):
    """A protocol of `base.py`; a subclass names its weights and its scorer."""

    Config: ClassVar[type[Section]] = PairConfig
    name: str
    asset: ClassVar[Asset]
    packages: ClassVar[tuple[str, ...]] = ()
    """That its scorer imports, of the extra `eval`."""
    digits: ClassVar[int] = 2
    notes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: Any):
        self.config = config
        self.weights = self.asset.at(config.weights)
        self.needs = (self.weights, *map(Package, self.packages))
        self._stages: tuple[PairStage, ...] = ()

    def unfit(self, prompts: PromptSet | None, items: Sequence[Item]) -> Unfit | None:
        if any(item.prompt for item in items):
            return None
        return Unfit("needs prompts", "put metadata.jsonl with rows of file_name and prompt beside the images")

    def scorer(self, found: Found) -> PairScorer:
        """Of the weights found."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[PairStage, ...]:
        if not self._stages:
            self._stages = (PairStage(self.scorer(self.weights.require().verify()), self.config.forward),)
        return self._stages

    def summarise(self, pictures: Sequence[Picture], seen: Mapping[str, Observed]) -> Result:
        """The mean over pictures, whatever their tags; where some are missing, over the means of prompts. All prompts
        weigh alike, so the interval draws from all of them: a tag may have only one. No picture is right or wrong:
        `correct` is what lies above the mean."""
        values = [float(seen["scores"][picture]["score"]) for picture in pictures]
        mean = fmean(values)
        records = [self._record(picture, value, mean) for picture, value in zip(pictures, values, strict=True)]
        prompts = [value for means in prompt_means(records).values() for value in means]
        return Result(
            protocol=self.name,
            value=fmean(prompts),
            interval=interval({"": prompts}),
            digits=self.digits,
            notes=self.notes,
            records=records,
        )

    def _record(self, picture: Picture, value: float, mean: float) -> ImageRecord:
        item, low = picture.item, value < mean
        return ImageRecord(
            filename=str(picture.path),
            tag=item.tag,
            prompt=item.prompt,
            correct=not low,
            reason=f"{self.name} {value:.{self.digits}f}, below the mean {mean:.{self.digits}f}" if low else "",
            item=item.id,
            k=picture.k,
            score=value,
            margin=value - mean,
            made=dict(picture.made),
        )

    def certify(self, items: Sequence[Item]) -> Certificate | None:
        return None
