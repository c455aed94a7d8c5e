"""FID: the Frechet distance on features of TensorFlow's Inception of 2015. A protocol is its resize (`resizing.py`)."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from apex_cli.evaluation import inception
from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.catalog import INCEPTION
from apex_cli.evaluation.distances import FrechetDistance
from apex_cli.evaluation.features import Extractor


class Fid(FrechetDistance):
    """`base` is `fid@PROTOCOL`, and `resize` what that means."""

    asset = INCEPTION
    packages = inception.PACKAGES

    @staticmethod
    def resize(pixels: np.ndarray) -> Tensor:
        raise NotImplementedError

    def extractor(self, found: Found) -> Extractor:
        identity = {"network": "inception-2015", "weights": found.sha256, "resize": self.base.partition("@")[2]}
        return Extractor(identity, self.resize, lambda: inception.load(found.path))
