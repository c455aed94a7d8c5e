"""`kid@inception` and `kid@effnet-lite0`: the unbiased kernel distance of KID, x 1000, over whole sets.

KID means Inception. On a machine without its weights `kid` is the lite one, on EfficientNet-Lite0; its row says so by
name. Without a reference set, pictures of the shapes world are compared with renders of the same prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from apex_cli.errors import DataError
from apex_cli.evaluation import effnet, inception, resizing
from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.base import Item, Observed, Picture
from apex_cli.evaluation.catalog import EFFNET, INCEPTION
from apex_cli.evaluation.distances import DistanceConfig, KernelDistance, stacked
from apex_cli.evaluation.features import Extractor, FeatureStage
from apex_cli.evaluation.scorers import demands
from apex_cli.worlds.shapes.grammar import scene_for
from apex_cli.worlds.shapes.renderer import render

TRUTH_SEED = 0x6B69  # apart from the seeds of training data and of the other judges


class KidInception(KernelDistance):
    name = "kid@inception"
    asset = INCEPTION

    def extractor(self, found: Found) -> Extractor:
        identity = {"network": "inception-2015", "weights": found.sha256, "resize": "sana-512"}
        return Extractor(identity, lambda pixels: resizing.sana(pixels, 512), lambda: inception.load(found.path))


class TruthStage(FeatureStage):
    """The features of a render of the same prompt, another one for each picture."""

    name = "truth"

    def question(self, item: Item) -> str:
        return item.prompt

    def prepare(self, picture: Picture) -> Tensor:
        return self.extractor.prepare(truth(picture))


def truth(picture: Picture) -> np.ndarray:
    """A render of a random scene that satisfies the prompt of `picture`, uint8 [64, 64, 3]."""
    try:
        prompt = demands(picture.item.text)
    except DataError as error:
        told = f"kid@effnet-lite0 has nothing to compare '{picture.item.text}' with: no prompt of the shapes world."
        remedy = "Run `apex eval reference FOLDER --for kid@effnet-lite0`, and add --set kid.reference=FOLDER."
        raise DataError(told, remedy) from error
    return render(scene_for(prompt, np.random.default_rng([TRUTH_SEED, int(picture.sha256[:8], 16)])))


class KidEffnetLite0(KernelDistance):
    name = "kid@effnet-lite0"
    asset = EFFNET
    tier = "lite"
    reference_name = "renders of the same prompts"

    def __init__(self, config: DistanceConfig):
        super().__init__(config)
        self.rendered = config.reference is None
        if self.rendered:
            self.needs = (self.weights,)

    def extractor(self, found: Found) -> Extractor:
        return effnet.extractor(found)

    @property
    def stages(self) -> tuple[FeatureStage, ...]:
        if not self._stages:
            extractor = self.extractor(self.weights.require().verify())
            own = FeatureStage(extractor, self.config.forward)
            self._stages = (own, TruthStage(extractor, self.config.forward)) if self.rendered else (own,)
        return self._stages

    def truth(self, pictures: Sequence[Picture], seen: Mapping[str, Observed]) -> Any:
        return stacked(pictures, seen["truth"]) if self.rendered else super().truth(pictures, seen)

    def caveats(self, count: int) -> tuple[str, ...]:
        other = self.reference_name if self.rendered else "the reference set"
        return (f"Lite, not comparable with any published KID; against {other}.",)


class Kid:
    """KID on Inception where its weights are, else on EfficientNet-Lite0: the name of the row says which."""

    Config = DistanceConfig

    def __new__(cls, config: DistanceConfig) -> KernelDistance:  # type: ignore[misc]
        return KidInception(config) if INCEPTION.at(config.weights).find() else KidEffnetLite0(config)
