"""Fixed-seed sample grids of a run: a row for each prompt, a column for each seed; step 0 is the model it started from."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from apex_cli.generation import Request, SampleConfig, generate, grid_picture
from apex_cli.training.settings import TrainConfig


def diversity(images: list[np.ndarray]) -> float:
    """Mean distance (RMS of pixel values in [0, 1]) between images of one prompt; 0 means the seeds are ignored."""
    pairs = [((a / 255.0 - b / 255.0) ** 2).mean() ** 0.5 for a, b in combinations(images, 2)]
    return float(np.mean(pairs)) if pairs else 0.0


class SampleGrid:
    """Draws `samples/step-000200.png` in the run folder and measures seed diversity."""

    def __init__(self, sample: SampleConfig, train: TrainConfig, folder: Path):
        self.sample, self.train, self.folder = sample, train, folder / "samples"

    def __call__(self, trainer: Any) -> dict[str, float]:
        prompts, seeds = self.train.sample_prompts, self.train.sample_seeds
        requests = [Request(prompt, seed) for prompt in prompts for seed in range(seeds)]
        images = [sample.pixels for sample in generate(trainer.backbone, self.sample, requests)]
        rows = [images[i : i + seeds] for i in range(0, len(images), seeds)]
        self.folder.mkdir(parents=True, exist_ok=True)
        grid_picture(rows, zoom=2).save(self.folder / f"step-{trainer.step:06d}.png")
        return {"diversity": float(np.mean([diversity(row) for row in rows]))}
