"""How much images of one prompt differ with the seed."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def diversity(images: np.ndarray, per_prompt: int) -> float | None:
    """Mean RMS distance, of pixels in 0..1, between the images of one prompt: 0 means that seeds are ignored.

    `images` uint8 [N, H, W, 3], `per_prompt` neighbours share a prompt; None where there is nothing to compare.
    """
    if per_prompt == 1:
        return None
    rows = images.reshape(-1, per_prompt, *images.shape[1:]).astype(np.float32) / 255
    pairs = [np.sqrt(((rows[:, a] - rows[:, b]) ** 2).mean((1, 2, 3))) for a, b in combinations(range(per_prompt), 2)]
    return float(np.mean(pairs))
