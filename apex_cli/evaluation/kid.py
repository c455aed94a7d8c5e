"""`kid@inception` and `kid@effnet-lite0`: the unbiased kernel distance of KID, x 1000, over whole sets.

KID means Inception. On a machine without its weights or a reference set `kid` is the lite one, on EfficientNet-Lite0;
its row says so by name. Without a reference set that one compares pictures of the shapes world with renders of the same
prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from apex_cli.errors import DataError
from apex_cli.evaluation import effnet, inception, resizing
from apex_cli.evaluation.assets import Asset, Found
from apex_cli.evaluation.base import Item, Observed, Picture, PromptSet
from apex_cli.evaluation.catalog import EFFNET, INCEPTION
from apex_cli.evaluation.distances import DistanceConfig, KernelDistance, stacked
from apex_cli.evaluation.features import Extractor, FeatureStage
from apex_cli.evaluation.guests import Unfit
from apex_cli.evaluation.needs import Package
from apex_cli.evaluation.scorers import demands
from apex_cli.worlds.shapes.grammar import scene_for
from apex_cli.worlds.shapes.renderer import render

TRUTH_SEED = 0x6B69  # apart from the seeds of training data and of the other judges


class KidInception(KernelDistance):
    base = "kid@inception"
    asset = INCEPTION
    packages = inception.PACKAGES

    @property
    def exclusive(self) -> bool:
        """No: where other suites draw, `kid` looks at what they draw."""
        return False

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
    rng = np.random.default_rng([TRUTH_SEED, int(picture.sha256[:8], 16)])
    return render(scene_for(demands(picture.item.text), rng))


class KidEffnetLite0(KernelDistance):
    base = "kid@effnet-lite0"
    asset = EFFNET
    packages = effnet.PACKAGES
    tier = "lite"
    reference_name = "renders of the same prompts"

    def __init__(self, config: DistanceConfig):
        super().__init__(config)
        self.rendered = config.reference is None
        if self.rendered:
            self.needs = (self.weights, *map(Package, self.packages))

    @property
    def usual(self) -> Asset | None:
        return None if self.rendered else super().usual

    def unfit(self, prompts: PromptSet | None, items: Sequence[Item]) -> Unfit | None:
        foreign = next((item.text for item in items if not _is_of_shapes(item.text)), None)
        if not self.rendered or foreign is None:
            return None
        reason = f"has nothing to compare '{foreign}' with: no prompt of the shapes world"
        return Unfit(reason, f"apex eval reference FOLDER --for {self.base}, then --set {self.base}.reference=FOLDER")

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


def _is_of_shapes(text: str) -> bool:
    try:
        demands(text)
    except DataError:
        return False
    return True


class Kid:
    """KID on Inception where its weights are and a reference set is named or found, else on EfficientNet-Lite0: the
    name of the row says which."""

    Config = DistanceConfig

    def __new__(cls, config: DistanceConfig) -> KernelDistance:  # type: ignore[misc]
        real = KidInception(config)
        wanted = config.weights or config.reference or real.reference.find()
        return real if wanted and real.weights.find() else KidEffnetLite0(config)
