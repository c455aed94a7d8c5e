"""EfficientNet-Lite0 features: ImageNet weights that ship inside a package, so that no hub is needed. Nobody else
reports distances on them: lite, not comparable."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL.Image import Resampling
from torch import Tensor, nn

from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.features import Extractor
from apex_cli.evaluation.resizing import IMAGENET_MEAN, IMAGENET_STD, normalise, shorter_side, unit
from apex_cli.evaluation.weights import read_pth

PACKAGES = ("efficientnet_lite_pytorch",)
SIDE = 224


class Pooled(nn.Module):
    """[B, 3, 224, 224] -> [B, 1280], the mean over the last convolution."""

    def __init__(self, path: Path):
        super().__init__()
        from efficientnet_lite_pytorch import EfficientNet

        self.network = EfficientNet.from_name("efficientnet-lite0")
        self.network.load_state_dict(read_pth(path))
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.network.extract_features(pixels).mean((2, 3))


def prepare(pixels: np.ndarray) -> Tensor:
    return normalise(unit(shorter_side(pixels, SIDE, Resampling.BICUBIC)), IMAGENET_MEAN, IMAGENET_STD)


def extractor(found: Found) -> Extractor:
    identity = {"network": "efficientnet-lite0", "weights": found.sha256, "resize": "bicubic-224"}
    return Extractor(identity, prepare, lambda: Pooled(found.path))
