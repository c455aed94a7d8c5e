"""The fast twin of a backbone: the same pictures, without what a one-step model computes for nothing.

It shares its weights with the backbone it was made from, which stays as it was, and is a `Backbone` like that one. What
is folded, one file each: adapters.py (LoRA merged), modulation.py (AdaLN as a table), projections.py (Q, K, V in one
product), channels.py (1 x 1 convolutions as products), frame.py (the autoencoder's 3-D convolutions as 2-D), reader.py
(the text behind a constant beginning). memory.py remembers prompts, graphs.py replays kernels on CUDA.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from importlib import import_module
from typing import Any, Self

import torch
from torch import Tensor, nn

from apex_cli.backbones import compiling
from apex_cli.backbones.fast import adapters, graphs
from apex_cli.backbones.fast.memory import PromptMemory
from apex_cli.backbones.fast.reader import PrefixedReader
from apex_cli.backbones.pipelines import PipelineBackbone, holding
from apex_cli.backbones.sharing import shared
from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond

TWINS = {
    "qwen_image": "qwen_image:FastQwenImage",
    "sana": "sana:FastSana",
    "flux": "others:FastFlux",
    "sd3": "others:FastSd3",
    "zimage": "others:FastZImage",
}
"""Backbone of the registry -> its twin in this folder."""


def kind(name: str) -> type[Fast]:
    """The class of the twin of the backbone `name`; raises `UsageError` where there is none."""
    if name not in TWINS:
        raise UsageError(f"The backbone '{name}' has no fast path.", "Use --plain.")
    module, found = TWINS[name].split(":")
    return getattr(import_module(f"{__package__}.{module}"), found)


def make(name: str, plain: Any, times: Sequence[float]) -> Fast:
    """The twin of `plain`, a backbone called `name` in the registry, for the noise levels `times` (without 0)."""
    return kind(name).of(plain, times)


class Fast(PipelineBackbone):
    """What all twins share; stands before the class of the plain backbone."""

    memory: PromptMemory
    folded: tuple[str, ...]
    """What was folded."""
    times: tuple[float, ...] | None

    @classmethod
    def of(cls, plain: Any, times: Sequence[float]) -> Self:
        """A twin of `plain`; that one is not changed."""
        twin = cls.__new__(cls)
        twin.__dict__.update(plain.__dict__)
        twin.times, twin.memory = None, PromptMemory()
        twin.network, twin.autoencoder = shared(plain.network), shared(plain.autoencoder)
        names = ["lora"] if adapters.merge(twin.network) else []
        with torch.no_grad():
            twin.folded = (*names, *twin.fold(tuple(times)))
        held = {"transformer": twin.network, "vae": twin.autoencoder}
        if not isinstance(twin.text_encoder, nn.ModuleDict):
            held["text_encoder"] = twin.text_encoder
        twin.pipeline = holding(plain.pipeline, **held)  # what was folded away is not held
        for part in twin.parts():
            part.requires_grad_(False).eval()
        return twin

    def again(self) -> Self:
        """Another twin over the same tensors, whose network may be changed; before `make_static`."""
        made = copy.copy(self)
        made.memory, made.network = PromptMemory(), shared(self.network)
        made.pipeline = holding(self.pipeline, transformer=made.network)
        return made

    def fold(self, times: tuple[float, ...]) -> list[str]:
        """Fold what this architecture can; the names of what was folded. Sets `times` where they are restricted."""
        return []

    def parts(self) -> list[nn.Module]:
        """The modules that draw pictures."""
        return [self.network, self.autoencoder, self.text_encoder]

    def real(self, tokens: Any) -> list[int]:
        """Positions of each row of the condition that are no padding, known on the host."""
        raise NotImplementedError

    def encode_prompts(self, prompts: Sequence[str]) -> Cond:
        """Text to embeddings, through the memory of prompts."""
        return self.memory.read(prompts, self._read)

    def _read(self, prompts: Sequence[str]) -> tuple[Cond, Sequence[int]]:
        tokens = self.tokenise(prompts)
        real = self.real(tokens)
        return self.embed(tokens), real

    def to(self, device: torch.device) -> None:
        """Move what draws pictures to `device`."""
        for part in self.parts():
            part.to(device)

    def make_static(self, capture: graphs.Capture | None = None) -> None:
        """Draw by replaying CUDA graphs, one for each shape that is met; texts are padded to a multiple of a few tokens
        to make the shapes few. After `to`, which would leave the graphs without their memory."""
        self._velocity = graphs.Replay(self._velocity, capture)
        self.decode = graphs.Replay(self.decode, capture)
        reader = self.text_encoder  # shared with twins that were made by `again`
        if isinstance(reader, PrefixedReader) and not isinstance(reader.forward, graphs.Replay):
            reader.forward = graphs.Replay(reader.forward, capture)

    def compile(self) -> None:
        """Compile the blocks of the transformer; see compiling.py."""
        compiling.compile_blocks(self.network, self.network.device, "Leave out --compile.")

    def velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """F(x_t, t, c); see `PipelineBackbone.velocity`."""
        if self.masks_text and isinstance(self._velocity, graphs.Replay):
            cond = cond.padded(graphs.rounded(cond.tokens.shape[1]))
        return super().velocity(x_t, t, cond)
