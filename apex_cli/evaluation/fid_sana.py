"""`fid@sana-512` (the default of our tables) and `fid@sana-1024`: FID as Sana's toolkit computes it on MJHQ-30K.

Generated and reference pictures alike: Pillow's bilinear to 512 on the shorter side, the centre, then torch's bilinear
to 299 without antialiasing. Most one-step models of the paper's Table 1 report this one.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from apex_cli.evaluation import resizing
from apex_cli.evaluation.fid import Fid


class FidSana512(Fid):
    base = "fid@sana-512"

    @staticmethod
    def resize(pixels: np.ndarray) -> Tensor:
        return resizing.sana(pixels, 512)


class FidSana1024(Fid):
    base = "fid@sana-1024"

    @staticmethod
    def resize(pixels: np.ndarray) -> Tensor:
        return resizing.sana(pixels, 1024)
