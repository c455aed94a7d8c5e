"""What all adapters over diffusers pipelines share: loading, freezing, saving, and the geometry of latents.

A subclass states what differs: how text is encoded, how `_velocity` calls the transformer, and, where the autoencoder
is not an `AutoencoderKL`, how latents are normalised.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from apex_cli.backbones import compact, folders
from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond


class PipelineConfig(Section):
    """Where the pipeline comes from and how it is asked."""

    path: str | None = None
    """A diffusers pipeline folder, `assets:NAME` for one that ships with apex, or a hub id. None builds `tiny`."""
    revision: str | None = None
    """Commit, tag or branch of a hub id; a checkpoint names the commit that it began with."""
    resolution: int = 64
    """Pixels of a side of the square images."""
    max_tokens: int = Field(default=300, gt=0)
    """Prompt length kept, as `max_sequence_length` of the stock pipeline."""
    dtype: Literal["fp32", "bf16", "fp8", "nf4"] = "fp32"
    """Format of the weights; the autoencoder stays in fp32. All but fp32 are for a frozen base under LoRA, and for
    sampling. fp8 and nf4 are for the linear layers of the transformer's blocks; the rest is in bf16 then."""
    offload: bool = False
    """Keep those layers in the machine's memory; each comes to the accelerator when it computes."""


class PipelineBackbone:
    """One loaded diffusers pipeline; `network` is its transformer, everything is frozen."""

    Config: ClassVar[type[Any]]
    """A `PipelineConfig` with `tiny`, the sizes of a fresh pipeline."""
    pipeline_class: ClassVar[str]
    lora_targets: ClassVar[tuple[str, ...]]
    scale_invariant_text: ClassVar[bool] = False
    masks_text: ClassVar[bool] = True
    times: tuple[float, ...] | None = None
    unused: tuple[str, ...] = ()
    patch: int = 1
    """A side of the latents must be a multiple of this."""
    latent_shape: tuple[int, int, int]
    multiple: int
    """Sides of pictures are multiples of so many pixels."""
    cond_dim: int
    pooled_dim: int = 0

    def __init__(self, config: Any, transformer: nn.Module | None = None):
        """`transformer`: one that is there already; that of the folder is not read then."""
        self.config = config
        folders.silence()
        real = torch.get_default_device().type != "meta"
        compact.check(config.dtype if real else "")
        if config.path:
            given: dict[str, Any] = {} if transformer is None else {"transformer": transformer}
            given |= dict.fromkeys(self.left_out(config))
            given["revision"] = config.revision
            self.pipeline = folders.load(config.path, self.pipeline_class, config.dtype, **given)
        else:
            self.pipeline = folders.cast(self.fresh(config.tiny), config.dtype)
        for module in self.pipeline.components.values():
            if isinstance(module, nn.Module):
                module.requires_grad_(False).eval()
        # Any: modules of a config and methods that nn.Module does not know of.
        self.network: Any = self.pipeline.transformer
        self.autoencoder: Any = self.pipeline.vae
        self.text_encoder: Any = self.pipeline.text_encoder
        if real and transformer is None and config.dtype in compact.FORMATS:
            compact.round_weights(self.network, config.dtype)
        self._measure()

    @staticmethod
    def left_out(config: Any) -> tuple[str, ...]:
        """Components that the pipeline is loaded without (they are None then)."""
        return ()

    @staticmethod
    def fresh(tiny: Any) -> Any:
        """A new pipeline of the shapes world of the sizes `tiny`."""
        raise NotImplementedError

    def dimensions(self) -> tuple[int, int, int]:
        """(latent channels, pixels of a side of one latent pixel, width of the prompt embedding)."""
        raise NotImplementedError

    def _measure(self) -> None:
        channels, factor, self.cond_dim = self.dimensions()
        side, rest = divmod(self.config.resolution, factor)
        if rest or side % self.patch:
            known = f"{self.pipeline_class} needs a multiple of {factor * self.patch}"
            raise UsageError(f"backbone.resolution = {self.config.resolution}: {known}.", "Change the resolution.")
        self.latent_shape = (channels, side, side)
        self.multiple = factor * self.patch

    def with_config(self, config: Any) -> Self:
        """The same weights under another configuration (resolution, prompt length)."""
        self.config = config
        self._measure()
        return self

    def tokenise(self, prompts: Sequence[str]) -> Any:
        """Texts to token ids on the CPU, in the form that `embed` reads."""
        raise NotImplementedError

    def embed(self, tokens: Any) -> Cond:
        """What the text encoder makes of `tokens`."""
        raise NotImplementedError

    def encode_prompts(self, prompts: Sequence[str]) -> Cond:
        """Text to embeddings, exactly as the stock pipeline makes them."""
        return self.embed(self.tokenise(prompts))

    def velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        """F(x_t, t, c), [B, C, h, w] like x_t, computed in the format of the weights."""
        dtype = self.network.dtype
        return self._velocity(x_t.to(dtype), t, cond.to(cond.tokens.device, dtype)).to(x_t.dtype)

    def _velocity(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        raise NotImplementedError

    def encode_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] in [-1, 1] -> the posterior's mean [B, C, H/f, W/f], (z - shift_factor) * scaling_factor."""
        facts = self.autoencoder.config
        return (self.autoencoder.encode(pixels).latent_dist.mode() - facts.shift_factor) * facts.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Latents -> pixels [B, 3, H, W]."""
        facts, latents = self.autoencoder.config, latents.to(self.autoencoder.dtype)
        return self.autoencoder.decode(latents / facts.scaling_factor + facts.shift_factor).sample

    def to(self, device: torch.device) -> None:
        """Move every module to `device`."""
        self.pipeline.to(device)

    def save(self, folder: Path) -> None:
        """The whole pipeline folder, as the stock `save_pretrained` writes it."""
        self.pipeline.save_pretrained(folder)


def holding(pipeline: Any, **parts: Any) -> Any:
    """A copy of a pipeline object with other components, past its check of their classes."""
    made = copy.copy(pipeline)
    vars(made).update(parts)
    return made


@contextmanager
def exact_time(embedding: nn.Module, time: Tensor) -> Iterator[None]:
    """Let the time `embedding`, whose first argument it is, see `time` [B] unrounded.

    diffusers casts t to the dtype of the hidden states first. In bf16, also under autocast, that makes 0.999 the same
    as 1.0, while the objective goes on computing with 0.999. The embedding itself is float32 to its last step, so it
    only has to be handed t: on the bf16 grid (0.5, 1.0) the answer is that of diffusers to the bit, in between it is
    the one that belongs to t, and a run under autocast embeds a time as sampling without autocast does.
    """
    hook = embedding.register_forward_pre_hook(lambda _, inputs: (time.float(), *inputs[1:]))
    try:
        yield
    finally:
        hook.remove()
