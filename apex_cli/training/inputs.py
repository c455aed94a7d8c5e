"""What the steps of a run read: latents by row, embeddings by prompt, encoded before the first step and kept on disk.

The ranks share out what is missing. A run always reads back what is on disk, so its losses do not depend on who encoded
what, in which process, or when.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from apex_cli.data import screen
from apex_cli.data.flaws import Flaw
from apex_cli.data.latents import Blank, Joined, Latents
from apex_cli.data.pools import pools
from apex_cli.data.prompts import Prompts
from apex_cli.flow.condition import Cond
from apex_cli.objectives.base import Batch, Needs
from apex_cli.records import Progress
from apex_cli.training.once import Once
from apex_cli.training.parts import Parts
from apex_cli.training.schedule import Order
from apex_cli.training.settings import TrainConfig

QUARANTINE = "quarantine.jsonl"
"""What a run leaves out of its data, and why."""


class Inputs:
    """`order.rows(step)`, `batch(rows)` and `latent_shape(rows)`, once `prepare()` has run."""

    def __init__(
        self, backbone: Any, data: Any, needs: Needs, parts: Parts, config: TrainConfig, accelerator: Accelerator,
        about: Mapping[str, Any], folder: Path,
    ):  # fmt: skip
        """`about`: names for whoever lists the caches; `data` is that of the data set. `folder`: that of the run."""
        self.backbone, self.data, self.needs, self.config, self.accelerator = backbone, data, needs, config, accelerator
        self.about, self.folder = {name: str(value) for name, value in about.items()}, folder
        self.once = Once(accelerator)
        self.left_out: list[screen.Finding] = []
        """Broken samples that the run does without; `data` is without them once `prepare()` has run."""
        self.order: Any = None
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
        """Leave out what is broken, and encode what is not on disk yet."""
        yield from self._screen()
        self.order = Order(pools(self.data), self.config.batch, self.config.seed)
        if self.needs.inputs == "latents":
            yield from self._prepare_latents()
        if self.needs.inputs != "pixels" and not self.live:
            yield from self._prepare_prompts()

    def _screen(self) -> Iterator[Progress]:
        """Leave out what is broken; each source of a mixture is screened, and may be refused, by itself."""
        if not hasattr(self.data, "sources"):
            self.data = yield from self._kept(self.data)
            return
        kept: list[Any] = []
        for source in self.data.sources:
            kept += [(yield from self._kept(source))]
        self.data = self.data.over(kept)

    def _kept(self, data: Any) -> Generator[Progress, None, Any]:
        """`data` without what is broken.

        Every rank looks at its share of the samples, unless an earlier run has looked at the same bytes.
        """
        if not hasattr(data, "probe"):
            return data
        accelerator = self.accelerator
        found = self.once(lambda: screen.recall(data))
        if found is None:
            rows, own = range(accelerator.process_index, len(data), accelerator.num_processes), []
            for done, finding in enumerate(screen.look(data, rows), start=1):
                own += [finding] if finding else []
                yield Progress("check samples", done, len(rows))
            found = sorted(gather_object(own), key=lambda finding: finding["row"])
            if accelerator.is_main_process:
                screen.remember(data, found)
        self.left_out += [{"path": data.config.path, **finding} for finding in found]
        if accelerator.is_main_process:
            screen.write(self.folder / QUARANTINE, self.left_out)
        broken = [(finding["sample"], Flaw(finding["reason"], finding["told"])) for finding in found]
        screen.refuse(broken, len(data), data.config)
        return screen.Kept(data, [finding["row"] for finding in found]) if found else data

    def _prepare_latents(self) -> Iterator[Progress]:
        if not self.needs.images:
            self.latents = Blank(self.backbone, self.data)
            return
        if not hasattr(self.data, "pixels"):
            self.latents = self.data.latents()
            return
        sources = getattr(self.data, "sources", [self.data])  # each has its own cache, whatever it is mixed with
        device = self.accelerator.device
        self.latents = Joined([Latents(self.backbone, one, device, self.about, self.once) for one in sources])
        for part in self.latents.parts:
            yield from self._fill("encode images", part)

    def _prepare_prompts(self) -> Iterator[Progress]:
        rows = self.order.of_run(self.config.steps)
        prompts = dict.fromkeys(self.data.prompts(rows.tolist()) + ([""] if self.needs.uncond else []))
        if not hasattr(self.backbone, "text_encoder"):
            self.conds = {prompt: self.backbone.encode_prompts([prompt]) for prompt in prompts}
            return
        about = {name: value for name, value in self.about.items() if name != "data"}
        self.conds = Prompts(self.backbone, prompts, self.accelerator.device, about, self.data, self.once)
        yield from self._fill("encode prompts", self.conds)

    def _fill(self, phase: str, cache: Latents | Prompts) -> Iterator[Progress]:
        """Every rank encodes its share of what the main process misses; `done` and `total` are those of this rank."""
        accelerator = self.accelerator
        if accelerator.is_main_process:
            cache.store.begin()
        missing = self.once(cache.missing)
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
        """The rows of a micro-batch, as the objective asks for them, on the host; prompts that a step reads itself are
        where the text encoder is."""
        needs = self.needs
        if needs.inputs == "pixels":
            return Batch.of_pixels(self.data.pixels(rows), rows)
        cond = self.cond(self.data.prompts(rows))
        if needs.inputs == "answers":
            return Batch(self.data.answers(rows), cond, ids=rows)
        uncond = self.cond([""]).expand(len(rows)) if needs.uncond else None
        x = self.latents[torch.as_tensor(rows)]
        noise = self.data.noises(rows, x.shape[1:]) if needs.noise else None
        return Batch(x, cond, uncond, rows, noise)

    def cond(self, prompts: list[str]) -> Cond:
        """Conditions of `prompts`, padded to the longest of them."""
        if self.live:
            return self.backbone.encode_prompts(prompts)
        return Cond.cat([self.conds[prompt] for prompt in prompts])

    def place(self, device: torch.device | str) -> None:
        """Move the idle encoders: off the accelerator while steps run, back on it to draw."""
        for module in self.encoders:
            module.to(device)
