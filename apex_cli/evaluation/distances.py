"""What all distances between two sets of pictures share: an extractor, a reference set, a value with its interval."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.evaluation import frechet, jackknife, mjhq, mmd, reference
from apex_cli.evaluation.assets import Asset, Found, file_sha256
from apex_cli.evaluation.base import Item, Observed, Picture, PromptSet
from apex_cli.evaluation.catalog import MJHQ
from apex_cli.evaluation.features import Extractor, FeatureStage
from apex_cli.evaluation.guests import Guest, Unfit
from apex_cli.evaluation.keeper import kept
from apex_cli.evaluation.needs import Package
from apex_cli.evaluation.records import Certificate, Result
from apex_cli.evaluation.reference import Reference

FULL = 30_000
"""Pictures of MJHQ-30K; a Frechet distance of fewer is never called FID-30K."""

KIND, VERSION = "distances", 1
"""What the numbers of two sets are kept as, for they take minutes; raised when the arithmetic changes."""


class DistanceConfig(Section):
    weights: Path | None = None
    """File or folder of the extractor's weights, where they are not in a cache."""
    reference: Path | None = None
    """The reference set: a file, a folder of pictures that `apex eval reference` has seen, or a name."""
    prompts: Path | None = None
    """MJHQ-30K's meta_data.json or its folder, where it is not in a cache."""
    forward: int = Field(default=32, ge=1)
    """Pictures in one pass of the network."""


class SetDistance(Guest):
    """A protocol of `base.py` over whole sets; a subclass names its weights, its extractor and its arithmetic.

    Against MJHQ-30K it measures pictures of MJHQ-30K's prompts: those that it has drawn, or a folder, of which its user
    claims it. Another reference set stands in the name: `fid@sana-512+NAME`."""

    Config: ClassVar[type[Section]] = DistanceConfig
    base: ClassVar[str]
    asset: ClassVar[Asset]
    packages: ClassVar[tuple[str, ...]] = ()
    """That its extractor imports, of the extra `eval`."""
    whole: ClassVar[bool] = False
    """Whether the reference keeps all features."""
    tier: ClassVar[Any] = "standard"
    reference_name: ClassVar[str] = "mjhq-30k"

    def __init__(self, config: DistanceConfig):
        self.config = config
        self.weights = self.asset.at(config.weights)
        self.needs: Sequence[Any] = (self.weights, self.reference, *map(Package, self.packages))
        self._stages: tuple[FeatureStage, ...] = ()

    @property
    def name(self) -> str:
        return self.base if self.reference.is_default else f"{self.base}+{self.reference.label}"

    @property
    def reference(self) -> Reference:
        return Reference(self.base, self.config.reference, self.reference_name)

    @property
    def usual(self) -> Asset | None:
        return MJHQ.at(self.config.prompts)

    @property
    def exclusive(self) -> bool:
        return self.usual is not None and self.reference.is_default

    def unfit(self, prompts: PromptSet | None, items: Sequence[Item]) -> Unfit | None:
        if prompts is None or prompts.name == mjhq.NAME or not self.reference.is_default:
            return None
        reason = f"compares with {self.reference_name}, and these are pictures of the prompts of '{prompts.name}'"
        return Unfit(reason, f"name a reference set of them: --set {self.base}.reference=FOLDER")

    def extractor(self, found: Found) -> Extractor:
        """Of the weights found."""
        raise NotImplementedError

    @property
    def stages(self) -> tuple[FeatureStage, ...]:
        if not self._stages:
            self._stages = (FeatureStage(self.extractor(self.weights.require().verify()), self.config.forward),)
        return self._stages

    def truth(self, pictures: Sequence[Picture], seen: Mapping[str, Observed]) -> Any:
        path = self.reference.find()
        assert path is not None, "asked for only when no need is missing"
        return reference.read(path, self.stages[0].identity, self.whole)

    def summarise(self, pictures: Sequence[Picture], seen: Mapping[str, Observed]) -> Result:
        if len(pictures) < 2:
            raise UsageError(f"{self.name} compares sets; one picture is none.", "Evaluate more images.")
        features = stacked(pictures, seen["features"])
        result = self.compare(features, self.truth(pictures, seen), [picture.item.id for picture in pictures])
        if (path := self.reference.find()) is None:
            return result
        sha256 = file_sha256(path)
        facts = {**result.facts, "reference set": f"{self.reference.label}, SHA-256 {sha256[:12]}"}
        identity = {"reference": {"name": self.reference.label, "sha256": sha256}}
        return result.model_copy(update={"facts": facts, "identity": identity})

    def compare(self, features: np.ndarray, truth: Any, prompts: Sequence[str]) -> Result:
        """`prompts`: the id of that of each row of `features`."""
        raise NotImplementedError

    def measured(
        self, measure: Callable[[], dict[str, Any]], prompts: Sequence[str], *sets: np.ndarray
    ) -> dict[str, Any]:
        """What `measure` finds of these sets, or once found."""
        content = hashlib.sha256(json.dumps([self.name, VERSION, *prompts]).encode())
        for part in sets:
            content.update(f"{part.dtype} {part.shape}".encode())
            content.update(np.ascontiguousarray(part).data)
        return kept(content.hexdigest()[:32], measure, KIND)

    def certify(self, items: Sequence[Item]) -> Certificate | None:
        return None


def stacked(pictures: Sequence[Picture], seen: Observed) -> np.ndarray:
    """float32 [n, d], in the order of the pictures."""
    return np.stack([seen[picture]["features"] for picture in pictures])


class FrechetDistance(SetDistance):
    """Value, jackknife interval, and what infinitely many pictures would give."""

    def compare(self, features: np.ndarray, truth: frechet.Gaussian, prompts: Sequence[str]) -> Result:
        several = jackknife.can_tell(prompts)

        def measure() -> dict[str, Any]:
            value = {"value": frechet.distance(frechet.gaussian(features), truth)}
            if not several:
                return value
            parts = frechet.Against(features, truth)
            return value | {"without": parts.without_blocks(prompts), "extrapolated": parts.extrapolated()}

        found = self.measured(measure, prompts, features, truth.mean, truth.covariance)
        return Result(
            protocol=self.name,
            value=found["value"],
            interval=jackknife.interval(found["value"], found["without"]) if several else None,
            higher_is_better=False,
            digits=2,
            tier=self.tier,
            facts={
                "images": len(features),
                "reference images": truth.n,
                "extrapolated to infinitely many": found.get("extrapolated"),
            },
            notes=self.caveats(len(features), truth),
        )

    def caveats(self, count: int, truth: frechet.Gaussian) -> tuple[str, ...]:
        few = f"{count} images: not FID-30K; comparable with the same number only, as few images give too much."
        unknown = "The reference file does not say which resize it was made with."
        return (few,) * (count < FULL) + (unknown,) * (truth.n is None)


class KernelDistance(SetDistance):
    """1000 MMD^2 with its jackknife interval."""

    whole = True
    kernel: ClassVar[Callable[[np.ndarray, np.ndarray], np.ndarray]] = staticmethod(mmd.cubic)
    unbiased: ClassVar[bool] = True

    def compare(self, features: np.ndarray, truth: np.ndarray, prompts: Sequence[str]) -> Result:
        def measure() -> dict[str, Any]:
            return asdict(mmd.squared_mmd(features, truth, type(self).kernel, self.unbiased, prompts))

        found = self.measured(measure, prompts, features, truth)
        value, without = 1000 * found["value"], [1000 * v for v in found["without"]]
        return Result(
            protocol=self.name,
            value=value,
            interval=jackknife.interval(value, without) if without else None,
            higher_is_better=False,
            digits=3,
            tier=self.tier,
            facts={"images": len(features), "reference images": len(truth)},
            notes=("x 1000.", *self.caveats(len(features))),
        )

    def caveats(self, count: int) -> tuple[str, ...]:
        return ()
