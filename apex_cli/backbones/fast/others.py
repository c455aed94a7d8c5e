"""FLUX.1, Stable Diffusion 3 and Z-Image folded: merged adapters, and for FLUX its projections.

The modulation of the first two follows the pooled prompt, not the time alone; that of Z-Image is 2 % of its weights.
diffusers' fused processor for Stable Diffusion 3 leaves out the norms of 3.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from apex_cli.backbones.clip_t5 import ClipT5Backbone
from apex_cli.backbones.fast import graphs, projections
from apex_cli.backbones.fast.twin import Fast
from apex_cli.backbones.flux import Flux
from apex_cli.backbones.sd3 import Sd3
from apex_cli.backbones.zimage import ZImage
from apex_cli.flow.condition import Cond


class FastClipT5(Fast, ClipT5Backbone):
    """Prompts padded to a fixed length: every position is real."""

    def _read(self, prompts: Sequence[str]) -> tuple[Cond, Sequence[int]]:
        cond = self.embed(self.tokenise(prompts))
        return cond, [cond.tokens.shape[1]] * len(prompts)


class FastFlux(FastClipT5, Flux):
    """The twin of a `Flux`."""

    def fold(self, times: tuple[float, ...]) -> list[str]:
        projections.fuse_flux(self.network)
        return ["projections"]


class FastSd3(FastClipT5, Sd3):
    """The twin of an `Sd3`."""


class FastZImage(Fast, ZImage):
    """The twin of a `ZImage`."""

    def real(self, tokens: Any) -> list[int]:
        return tokens.attention_mask.sum(1).tolist()

    def make_static(self, capture: graphs.Capture | None = None) -> None:
        """Only the autoencoder: the network takes prompts apart by lengths that it reads from the device."""
        self.decode = graphs.Replay(self.decode, capture)
