"""The resize stage of each protocol, exactly: most of what separates two FIDs of the same pictures lies here.

All take uint8 [H, W, 3] and return float32 [3, h, w] as the network wants it. Each is held pixel by pixel against the
library that it follows in `tests/evaluation/test_resizing.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from PIL.Image import Resampling
from torch import Tensor
from torch.nn.functional import interpolate, pad

INCEPTION = 299
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def shorter_side(pixels: np.ndarray, side: int, filter: Resampling) -> np.ndarray:
    """Scale until the shorter side is `side` (Pillow, antialiased, rounded to bytes) and cut out the centre square, as
    `Resize` and `CenterCrop` of torchvision do with a Pillow image: uint8 [side, side, 3]."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    target = (int(side * width / short), int(side * height / short))
    image = Image.fromarray(pixels)
    image = image if image.size == target else image.resize(target, filter)
    left, top = round((target[0] - side) / 2), round((target[1] - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def unit(pixels: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W] in 0..1, as `ToTensor` does."""
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float().div(255)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def pytorch_fid(pixels: np.ndarray) -> Tensor:
    """pytorch-fid 0.3: torch's bilinear from any size to 299 x 299, without antialiasing; then -1..1."""
    scaled = interpolate(unit(pixels)[None], (INCEPTION, INCEPTION), mode="bilinear", align_corners=False)[0]
    return 2 * scaled - 1


def sana(pixels: np.ndarray, side: int) -> Tensor:
    """Sana's toolkit: Pillow's bilinear to `side` on the shorter side, the centre, then as pytorch-fid."""
    return pytorch_fid(shorter_side(pixels, side, Resampling.BILINEAR))


def clean_fid(pixels: np.ndarray) -> Tensor:
    """clean-fid 0.1: Pillow's bicubic to 299 x 299 in floats, a channel at a time, cut to 0..255; then -1..1."""
    channels = [Image.fromarray(pixels[:, :, c].astype(np.float32)) for c in range(3)]
    scaled = [np.asarray(channel.resize((INCEPTION, INCEPTION), Resampling.BICUBIC)) for channel in channels]
    return (torch.from_numpy(np.stack(scaled).clip(0, 255)) - 128) / 128


def clip(pixels: np.ndarray, side: int) -> Tensor:
    """OpenAI's CLIP: Pillow's bicubic on the shorter side, the centre, CLIP's mean and deviation."""
    return normalise(unit(shorter_side(pixels, side, Resampling.BICUBIC)), CLIP_MEAN, CLIP_STD)


def cmmd(pixels: np.ndarray, side: int) -> Tensor:
    """CMMD: the centre square first, then Pillow's bicubic; CLIP's mean and deviation."""
    height, width = pixels.shape[:2]
    short = min(height, width)
    left, top = (width - short) // 2, (height - short) // 2
    square = Image.fromarray(pixels[top : top + short, left : left + short])
    return normalise(unit(np.asarray(square.resize((side, side), Resampling.BICUBIC))), CLIP_MEAN, CLIP_STD)


def dinov2(pixels: np.ndarray, side: int) -> Tensor:
    """edm2's FD-DINOv2: torch's antialiased bicubic in floats to side x side, not cut; ImageNet's mean and std."""
    raw = torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float()[None]
    scaled = interpolate(raw, (side, side), mode="bicubic", antialias=True)[0]
    return normalise(scaled / 255, IMAGENET_MEAN, IMAGENET_STD)


def hpsv2(pixels: np.ndarray, side: int) -> Tensor:
    """HPSv2: antialiased bicubic in floats to the longer side, black up to a square; CLIP's mean and std."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    size = (round(height * scale), round(width * scale))
    scaled = unit(pixels)
    if scale != 1:
        scaled = interpolate(scaled[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
    lacking = (side - size[1], side - size[0])
    margins = [part for missing in lacking for part in (missing // 2, missing - missing // 2)]
    return normalise(pad(scaled, margins), CLIP_MEAN, CLIP_STD)
