"""What the steps of a run read: latents by row, embeddings by prompt, encoded before the first step and kept on disk.

The ranks share out what is missing. A run always reads back what is on disk, so its losses do not depend on who encoded
what, in which process, or when.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from apex_cli.data.latents import Joined, Latents
from apex_cli.data.pools import pools
from apex_cli.data.prompts import Prompts
from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Batch, Needs
from apex_cli.records import Progress
from apex_cli.training.parts import Parts
from apex_cli.training.schedule import Order
from apex_cli.training.settings import TrainConfig


class Inputs:
    """`order.rows(step)`; `batch(rows)` and `latent_shape(rows)`, once `prepare()` has run."""

    def __init__(
        self, backbone: Any, data: Any, needs: Needs, parts: Parts, config: TrainConfig, accelerator: Accelerator,
        about: Mapping[str, Any],
    ):  # fmt: skip
        """`about`: names for whoever lists the caches; `data` is that of the data set."""
        self.backbone, self.data, self.needs, self.config, self.accelerator = backbone, data, needs, config, accelerator
        self.about = {name: str(value) for name, value in about.items()}
        self.order = Order(pools(data), config.batch, config.seed)
        self.live = "text_encoder" in parts.modules
        """Whether the text encoder is trained, so that every step must ask it anew."""
        modules = {
            "text_encoder": getattr(backbone, "text_encoder", None),
            "vae": getattr(backbone, "autoencoder", None),
        }
        idle = needs.inputs == "latents"
        self.encoders: list[nn.Module] = [
            module for name, module in modules.items() if idle and module is not None and name not in parts.modules
        ]
        """Frozen modules that no step asks: only encoding and drawing do."""
        self.latents: Any = None
        self.conds: Any = {}

    def prepare(self) -> Iterator[Progress]:
        """Encode what is not on disk yet."""
        if self.needs.inputs == "latents":
            yield from self._prepare_latents()
        if self.needs.inputs != "pixels" and not self.live:
            yield from self._prepare_prompts()

    def _prepare_latents(self) -> Iterator[Progress]:
        if not hasattr(self.data, "pixels"):
            self.latents = self.data.latents()
            return
        sources = getattr(self.data, "sources", [self.data])  # each has its own cache, whatever it is mixed with
        self.latents = Joined([Latents(self.backbone, one, self.accelerator.device, self.about) for one in sources])
        for part in self.latents.parts:
            yield from self._fill("encode images", part)

    def _prepare_prompts(self) -> Iterator[Progress]:
        rows = self.order.of_run(self.config.steps)
        prompts = dict.fromkeys(self.data.prompts(rows.tolist()) + ([""] if self.needs.uncond else []))
        if not hasattr(self.backbone, "text_encoder"):
            self.conds = {prompt: self.backbone.encode_prompts([prompt]) for prompt in prompts}
            return
        about = {name: value for name, value in self.about.items() if name != "data"}
        self.conds = Prompts(self.backbone, prompts, self.accelerator.device, about)
        yield from self._fill("encode prompts", self.conds)

    def _fill(self, phase: str, cache: Latents | Prompts) -> Iterator[Progress]:
        """Every rank encodes its share of what the main process misses; `done` and `total` are those of this rank."""
        accelerator = self.accelerator
        if accelerator.is_main_process:
            cache.store.begin()
        told: list[Any] = broadcast_object_list([cache.missing() if accelerator.is_main_process else None])
        missing = told[0]
        for done, total in cache.encode(missing[accelerator.process_index :: accelerator.num_processes]):
            yield Progress(phase, done, total)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            cache.store.finish()
        cache.open()

    def latent_shape(self, rows: np.ndarray) -> tuple[int, ...]:
        """(C, h, w) of the latents of a step with these rows."""
        if self.needs.inputs != "latents":
            return self.backbone.latent_shape
        return tuple(self.latents[torch.as_tensor(rows[:1])].shape[1:])

    def batch(self, rows: list[int]) -> Batch:
        """The rows of a micro-batch, as the objective asks for them, on the device that trains."""
        device, needs = self.accelerator.device, self.needs
        if needs.inputs == "pixels":
            return Batch.of_pixels(self.data.pixels(rows).to(device), rows)
        cond = self.cond(self.data.prompts(rows)).to(device)
        if needs.inputs == "answers":
            return Batch(self.data.answers(rows).to(device), cond, ids=rows)
        uncond = self.cond([""]).to(device).expand(len(rows)) if needs.uncond else None
        return Batch(self.latents[torch.as_tensor(rows)].to(device), cond, uncond, rows)

    def cond(self, prompts: list[str]) -> Cond:
        """Conditions of `prompts`, padded to the longest of them."""
        if self.live:
            return self.backbone.encode_prompts(prompts)
        return Cond.cat([self.conds[prompt] for prompt in prompts])

    def place(self, device: torch.device | str) -> None:
        """Move the idle encoders: off the accelerator while steps run, back on it to draw."""
        for module in self.encoders:
            module.to(device)
