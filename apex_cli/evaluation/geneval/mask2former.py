"""GenEval's detector through transformers: a Mask2Former for the instances of COCO, with the pre- and post-processing
of mmdet 2.x, which the benchmark was made with.

Before: the picture keeps its ratio and is brought within 1333 x 800 (bilinear, no antialias, rounded to bytes), padded
to multiples of 32 with grey 128, and normalised. After: of all (query, class) pairs the 100 with the best class
probability p; the query's mask logits m at full size give

    mask = m > 0,   score = p mean(sigmoid(m) over the mask),   box = the mask's extent, its last pixel included.

One mask can so appear under two classes. The library's own post-processing works at 384 px, drops scores under 0.5 and
flattens overlaps: it is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from apex_cli.errors import SetupError
from apex_cli.evaluation.geneval.seen import Seen, run_lengths
from apex_cli.evaluation.geneval_prompts import CLASSES

if TYPE_CHECKING:
    from torch import Tensor

VERSION = 1
"""Raised when what is computed here changes: part of the identity of its observations."""
LONG, SHORT, MULTIPLE, PAD = 1333, 800, 32, 128.0
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
PAIRS = 100
FLOOR = 0.1
"""Objects at or below this confidence are not kept: no threshold below it can be asked of stored detections."""


class Mask2Former:
    """The model of `folder`, on the accelerator if there is one, in fp32."""

    def __init__(self, folder: Path, device: str | None = None):
        import torch
        from safetensors import SafetensorError
        from transformers import Mask2FormerForUniversalSegmentation

        self.device = torch.device(device) if device else _accelerator()
        try:
            model: Any = Mask2FormerForUniversalSegmentation.from_pretrained(folder, use_safetensors=True)
        except (OSError, ValueError, SafetensorError) as error:
            told = f"The detector in '{folder}' could not be read: {str(error).splitlines()[0]}"
            raise SetupError(told, "Get the weights again: apex eval prepare mask2former") from error
        self.model = model.eval().to(self.device)
        if (labels := self.model.config.num_labels) != len(CLASSES):
            told = f"The detector in '{folder}' knows {labels} classes; GenEval's are the {len(CLASSES)} of COCO."
            raise SetupError(told, "Take a Mask2Former that was trained on the instances of COCO.")

    def detect(self, images: Sequence[np.ndarray]) -> list[list[Seen]]:
        """The objects of uint8 pictures [H, W, 3], the most confident first; those of one size share a forward."""
        sizes: dict[tuple[int, ...], list[int]] = {}
        for place, image in enumerate(images):
            sizes.setdefault(image.shape, []).append(place)
        found: dict[int, list[Seen]] = {}
        for places in sizes.values():
            found |= zip(places, self._alike([images[place] for place in places]), strict=True)
        return [found[place] for place in range(len(images))]

    def _alike(self, images: Sequence[np.ndarray]) -> Iterator[list[Seen]]:
        import torch

        height, width = images[0].shape[:2]
        with torch.inference_mode():
            pixels = torch.from_numpy(np.stack(images)).to(self.device).permute(0, 3, 1, 2)
            inputs = prepare(pixels)
            padded = (inputs.shape[-2], inputs.shape[-1])
            made = self.model(pixel_values=inputs)
            for logits, masks in zip(made.class_queries_logits, made.masks_queries_logits, strict=True):
                yield instances(logits, masks, padded, (height, width))


def _accelerator() -> Any:
    import torch

    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def scaled_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) within 1333 x 800, the ratio kept, as mmcv rounds it."""
    scale = min(LONG / max(height, width), SHORT / min(height, width))
    return int(height * scale + 0.5), int(width * scale + 0.5)


def prepare(pixels: Tensor) -> Tensor:
    """uint8 [B, 3, H, W] -> the model's input, float32 [B, 3, h, w] with h and w multiples of 32."""
    import torch
    from torch.nn.functional import interpolate, pad

    size = scaled_size(*pixels.shape[-2:])
    scaled = interpolate(pixels.float(), size, mode="bilinear", align_corners=False).round()
    right, below = (-size[1] % MULTIPLE, -size[0] % MULTIPLE)
    padded = pad(scaled, (0, right, 0, below), value=PAD)
    mean, std = (padded.new_tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((padded - mean) / std).to(torch.float32)


def instances(logits: Tensor, masks: Tensor, padded: tuple[int, int], size: tuple[int, int]) -> list[Seen]:
    """Objects above `FLOOR` of one picture, the most confident first.

    `logits` [Q, classes + 1], the last being nothing; `masks` [Q, h, w] of the padded input. `padded` and `size` are
    (height, width) of that input and of the picture. What cannot rise above the floor is not enlarged.
    """
    from torch.nn.functional import interpolate

    best = logits.softmax(-1)[:, :-1].flatten().topk(min(PAIRS, logits.shape[0] * (logits.shape[1] - 1)))
    likely = best.values > FLOOR
    if not likely.any():
        return []
    queries, labels = best.indices // (logits.shape[1] - 1), best.indices % (logits.shape[1] - 1)
    rows, labels, chances = queries[likely], labels[likely].tolist(), best.values[likely]
    needed, place = rows.unique(return_inverse=True)
    height, width = scaled_size(*size)
    full = interpolate(masks[needed][None], padded, mode="bilinear", align_corners=False)[..., :height, :width]
    full = interpolate(full, size, mode="bilinear", align_corners=False)[0]
    inside = full > 0
    sure = full.sigmoid().where(inside, 0).sum((1, 2)) / (inside.count_nonzero((1, 2)) + 1e-6)
    # The pixels of the masks stay on the device; what leaves it is where they begin and end.
    boxes = list(map(_box, inside.any(2).cpu().numpy(), inside.any(1).cpu().numpy()))
    runs = list(map(run_lengths, inside))
    scores = (chances * sure[place]).tolist()
    found = [
        Seen(CLASSES[label], boxes[at], score, runs[at])
        for label, at, score in zip(labels, place.tolist(), scores, strict=True)
        if score > FLOOR
    ]
    return sorted(found, key=lambda seen: -seen.confidence)


def _box(rows: np.ndarray, columns: np.ndarray) -> tuple[float, float, float, float]:
    """x0, y0, x1, y1 of a mask that is in these rows [H] and columns [W]; 0, 0, 0, 0 of an empty one."""
    y, x = np.flatnonzero(rows), np.flatnonzero(columns)
    return (float(x[0]), float(y[0]), float(x[-1] + 1), float(y[-1] + 1)) if len(y) else (0.0, 0.0, 0.0, 0.0)
