"""Optimizer steps of the real loop to be timed: on random latents, whose values do not change what a step costs.

Nothing is encoded but the prompts of one batch, whose embeddings stand for those of all others, and nothing is written.
"""

from __future__ import annotations

from zlib import crc32

import torch

from apex_cli.data.pools import pools
from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond
from apex_cli.training.loop import Job, Trainer
from apex_cli.training.schedule import Order


class Steps:
    """The loop of `job`, ready for its first step."""

    def __init__(self, job: Job):
        if job.objective.needs.inputs != "latents":
            raise UsageError("Only steps on latents can be timed.", "Choose a recipe that trains a transformer.")
        self.trainer = Trainer(job)
        inputs, config = self.trainer.inputs, job.config
        inputs.order = Order(pools(job.data), config.batch, config.seed)
        inputs.latents = Rows(config.batch, job.backbone.latent_shape)
        if not inputs.live:
            prompts = dict.fromkeys(job.data.prompts(inputs.order.rows(0).tolist()))
            with torch.no_grad():
                inputs.conds = Conds({text: job.backbone.encode_prompts([text]) for text in ("", *prompts)})
        inputs.place("cpu")

    def step(self) -> None:
        """One optimizer step. The first also measures the telemetry."""
        self.trainer._optimize()


class Rows:
    """Random latents [batch, C, h, w], the same for any rows."""

    def __init__(self, batch: int, shape: tuple[int, ...]):
        self.latents = torch.randn(batch, *shape)

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        return self.latents[: len(rows)]


class Conds(dict[str, Cond]):
    """Embeddings by prompt; a prompt that is not there has those of another."""

    def __missing__(self, prompt: str) -> Cond:
        others = list(self.values())[1:] or list(self.values())
        return others[crc32(prompt.encode()) % len(others)]
