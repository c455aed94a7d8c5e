"""Images side by side in one picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image


def grid_picture(rows: Sequence[Sequence[np.ndarray]], zoom: int = 1, gap: int = 2) -> Image.Image:
    """A PIL picture of images [H, W, 3] laid out in rows, each enlarged `zoom` times."""
    height, width = rows[0][0].shape[:2]
    canvas = np.full(
        (len(rows) * (height + gap) - gap, max(map(len, rows)) * (width + gap) - gap, 3), 255, dtype=np.uint8
    )
    for i, row in enumerate(rows):
        for j, image in enumerate(row):
            top, left = i * (height + gap), j * (width + gap)
            canvas[top : top + height, left : left + width] = image
    return Image.fromarray(canvas).resize((canvas.shape[1] * zoom, canvas.shape[0] * zoom), Image.Resampling.NEAREST)
