"""Distance between two sets of images: the unbiased kernel MMD of KID (`mmd.py`), on features that need no weights.

KID's Inception weights would have to be downloaded, so the features here are those of a fixed random network: at three
scales, two convolutions with filters of a fixed seed, then mean and standard deviation over the picture. They are
whitened on the `FEATURES` principal directions of renders of the training stream. Measured x 1000, 260 renders against
260 renders of the same prompts:

    fresh renders       -5 to 5     noise of sd 4        3     half of the shapes dropped     22
    blur of 0.5 px           -2     noise of sd 8       49     half of the colours replaced   91
    blur of 1 px             27     noise of sd 16     442     mean of two renders           473
    blur of 2 px            169     greyscale          415     empty canvas                 6398
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d

from apex_cli.evaluation import mmd
from apex_cli.generation import generator
from apex_cli.worlds.shapes.grammar import example
from apex_cli.worlds.shapes.renderer import render

SEED = 0
SCALES = 3
FILTERS = (32, 64)  # of the first and second convolution
FEATURES = 64
REFERENCE = 512  # renders that the whitening is measured on
CHUNK = 64


def kernel_distance(images: np.ndarray, truth: np.ndarray) -> float:
    """1000 MMD^2 between two stacks uint8 [n, H, W, 3]; about 0, or a little below, for equal distributions."""
    return 1000 * squared_mmd(features(images), features(truth))


def squared_mmd(x: np.ndarray, y: np.ndarray) -> float:
    """The unbiased estimate for features [n, d] and [m, d]; n and m at least 2."""
    return mmd.squared_mmd(x, y).value


def features(images: np.ndarray) -> np.ndarray:
    """Whitened features float64 [n, FEATURES] of uint8 [n, H, W, 3]."""
    mean, projection = _whitening()
    return (_raw(images) - mean) @ projection


@cache
def _whitening() -> tuple[np.ndarray, np.ndarray]:
    """Mean and projection that give the principal features of the training stream unit variance."""
    raw = _raw(np.stack([render(example("train", SEED, index)[1]) for index in range(REFERENCE)]))
    mean = raw.mean(0)
    _, spread, directions = np.linalg.svd(raw - mean, full_matrices=False)
    return mean, directions[:FEATURES].T / spread[:FEATURES] * REFERENCE**0.5


def _raw(images: np.ndarray) -> np.ndarray:
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.cat([_pooled(chunk) for chunk in pixels.split(CHUNK)]).double().numpy()


def _pooled(pixels: Tensor) -> Tensor:
    rows = []
    for first, bias, second in _filters():
        hidden = torch.relu(conv2d(pixels, first, bias, stride=2))
        hidden = torch.relu(conv2d(hidden, second))
        rows += [hidden.mean((2, 3)), hidden.std((2, 3))]
        pixels = avg_pool2d(pixels, 2)
    return torch.cat(rows, 1)


@cache
def _filters() -> list[tuple[Tensor, Tensor, Tensor]]:
    """Per scale: unit-norm filters 5 x 5 with biases, and zero-mean unit-norm filters 3 x 3."""
    gen = generator(SEED)
    low, high = FILTERS
    banks = []
    for _ in range(SCALES):
        first, bias = torch.randn(low, 3, 5, 5, generator=gen), 0.3 * torch.randn(low, generator=gen)
        second = torch.randn(high, low, 3, 3, generator=gen)
        second = second - second.mean((1, 2, 3), keepdim=True)
        banks.append((_unit(first), bias, _unit(second)))
    return banks


def _unit(filters: Tensor) -> Tensor:
    return filters / filters.flatten(1).norm(dim=1)[:, None, None, None]
