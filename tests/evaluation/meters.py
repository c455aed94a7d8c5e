"""Small protocols that stand in for large ones: one without prompts, and one that lacks a file."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

from apex_cli.config import Section
from apex_cli.evaluation.records import Result
from apex_cli.evaluation.shapes import Shapes


class Mean:
    """The mean grey level of a picture."""

    name, uses, batch, identity = "features", (), 4, {"extractor": "mean", "version": 1}
    opened = 0
    broken = ""
    """The start of the names of files that it fails on."""

    def question(self, item) -> str:
        return ""

    def open(self) -> None:
        type(self).opened += 1

    def prepare(self, picture):
        return picture.pixels()

    def observe(self, pictures, prepared, before):
        return [
            {"error": "no answer"} if self.broken and str(p.item.id).startswith(self.broken) else
            {"mean": pixels.mean(keepdims=True)}
            for p, pixels in zip(pictures, prepared, strict=True)
        ]  # fmt: skip


class BrightnessConfig(Section):
    scale: float = 1.0


class Brightness:
    Config = BrightnessConfig
    name = "brightness"
    needs = ()
    prompts = None

    def __init__(self, config: BrightnessConfig):
        self.scale, self.stages = config.scale, (Mean(),)

    def summarise(self, pictures, seen) -> Result:
        value = fmean(float(seen["features"][p]["mean"].mean()) for p in pictures)
        return Result(protocol=self.name, value=self.scale * value, tier="lite", digits=1)

    def certify(self, items) -> None:
        return None


class Weights:
    name, size, remedy = "weights-inception-2015-12-05.pth", 91_000_000, "get it with: apex eval prepare lacking"

    def find(self) -> Path | None:
        return None


class Lacking(Shapes):
    """Shapes that cannot run."""

    name = "lacking"
    needs = (Weights(),)
