"""Fixed-seed sample grids of a run: a row for each prompt, a column for each seed; the teacher's on the same seeds."""

from __future__ import annotations

import json
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
    """Draws `samples/step-000200.png`, and once `samples/teacher.png`; returns the seed diversity of both."""

    def __init__(self, sample: SampleConfig, teacher: SampleConfig | None, train: TrainConfig, folder: Path):
        self.sample, self.teacher, self.train, self.folder = sample, teacher, train, folder / "samples"

    def __call__(self, backbone: Any, step: int) -> dict[str, float]:
        """Before the first step the backbone is the teacher itself."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = {"diversity": self._draw(backbone, self.sample, f"step-{step:06d}")}
        stored = self.folder / "teacher.json"
        if self.teacher is not None and step == 0:
            stored.write_text(json.dumps({"teacher_diversity": self._draw(backbone, self.teacher, "teacher")}))
        return facts | (json.loads(stored.read_text()) if stored.is_file() else {})

    def _draw(self, backbone: Any, sample: SampleConfig, name: str) -> float:
        prompts, seeds = self.train.sample_prompts, self.train.sample_seeds
        requests = [Request(prompt, seed) for prompt in prompts for seed in range(seeds)]
        images = [made.pixels for made in generate(backbone, sample, requests)]
        rows = [images[i : i + seeds] for i in range(0, len(images), seeds)]
        grid_picture(rows, zoom=2).save(self.folder / f"{name}.png")
        return float(np.mean([diversity(row) for row in rows]))
