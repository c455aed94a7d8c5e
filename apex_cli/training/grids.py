"""What a run draws of itself: fixed-seed grids (a row a prompt, a column a seed), the teacher on the same seeds.

Where weights lie in shards every rank draws, since a forward needs all of them, and the main process writes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from apex_cli.generation import Request, SampleConfig, generate
from apex_cli.generation.diversity import diversity
from apex_cli.generation.grid import grid_picture
from apex_cli.training.runs import is_main
from apex_cli.training.settings import TrainConfig


class SampleGrid:
    """Draws `samples/step-000200.png`, and once `samples/teacher.png`; returns the seed diversity of both."""

    def __init__(self, sample: SampleConfig, teacher: SampleConfig | None, train: TrainConfig, folder: Path):
        self.sample, self.teacher, self.train, self.folder = sample, teacher, train, folder / "samples"

    def __call__(self, backbone: Any, step: int) -> dict[str, float]:
        """At step 0 the backbone is the teacher itself: its own few-step grid says nothing about collapse."""
        self.folder.mkdir(parents=True, exist_ok=True)
        facts = self._draw(backbone, self.sample, f"step-{step:06d}", "diversity")
        if step == 0:
            if self.teacher is not None:
                taught = self._draw(backbone, self.teacher, "teacher", "teacher_diversity")
                if is_main():
                    (self.folder / "teacher.json").write_text(json.dumps(taught | self._asked()))
            return facts
        return facts | self._taught()

    def _asked(self) -> dict[str, Any]:
        return {"prompts": list(self.train.sample_prompts), "seeds": self.train.sample_seeds}

    def _taught(self) -> dict[str, float]:
        """What the teacher's grid told. One of other prompts or seeds than the run now draws is deleted: the network
        that drew it is no more."""
        stored, asked = self.folder / "teacher.json", self._asked()
        if not stored.is_file():
            return {}
        taught = json.loads(stored.read_text())
        if any(taught.pop(key, value) != value for key, value in asked.items()):
            for file in (stored, self.folder / "teacher.png"):
                if is_main():
                    file.unlink(missing_ok=True)
            return {}
        return taught

    def _draw(self, backbone: Any, sample: SampleConfig, name: str, fact: str) -> dict[str, float]:
        prompts, seeds = self.train.sample_prompts, self.train.sample_seeds
        requests = [Request(prompt, seed) for prompt in prompts for seed in range(seeds)]
        images = np.stack([made.pixels for made in generate(backbone, sample, requests)])
        if is_main():
            rows = list(images.reshape(len(prompts), seeds, *images.shape[1:]))
            grid_picture(rows, zoom=2).save(self.folder / f"{name}.png")
        measured = diversity(images, seeds)
        return {} if measured is None else {fact: measured}


class PointGrid:
    """The same for the 2-D world: a scatter plot of the data, the teacher and the model, scored exactly."""

    def __init__(self, sample: SampleConfig, teacher: SampleConfig | None, train: TrainConfig, folder: Path):
        self.sample, self.teacher, self.train, self.folder = sample, teacher, train, folder / "samples"

    def __call__(self, backbone: Any, step: int) -> dict[str, float]:
        """`train.sample_seeds` points of every condition."""
        from apex_cli.worlds import modes

        self.folder.mkdir(parents=True, exist_ok=True)
        condition = torch.arange(modes.CONDITIONS).repeat_interleave(self.train.sample_seeds)
        stored = self.folder / "teacher.safetensors"
        if self.teacher is not None and step == 0:
            taught = self._draw(backbone, self.teacher, condition)
            if is_main():
                save_file({"points": taught}, stored)
        points = self._draw(backbone, self.sample, condition)
        if not is_main():
            return {}
        panels = {"data": modes.draw(condition, torch.Generator().manual_seed(0))}
        if self.teacher is not None and stored.is_file():
            taught = load_file(stored)["points"]
            if len(taught) == len(points):  # else `sample_seeds` has changed on the way
                panels[f"teacher, {self.teacher.nfe} NFE"] = taught
        panels[f"model, {self.sample.nfe} NFE"] = points
        modes.scatter(panels, condition, self.folder / f"step-{step:06d}.png")
        return modes.score(points, condition)

    def _draw(self, backbone: Any, sample: SampleConfig, condition: Tensor) -> Tensor:
        from apex_cli.worlds.modes import PROMPTS

        requests = [Request(PROMPTS[k], seed) for seed, k in enumerate(condition.tolist())]
        return torch.stack([made.latent for made in generate(backbone, sample, requests, batch=1024)])
