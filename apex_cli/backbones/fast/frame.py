"""Causal 3-D convolutions of a single frame as 2-D ones.

The kernel sees the frame behind zeros: only its last slice in time meets anything, so W[:, :, -1] as a 2-D convolution
is exact, at about a third of the work and of the memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from apex_cli.backbones.sharing import replace


class FrameConv(nn.Conv2d):
    """Takes and gives [B, C, 1, H, W]; the axis of time comes and goes without a copy."""

    @classmethod
    def of(cls, conv: Any) -> FrameConv:
        """The same answer as a `QwenImageCausalConv3d` for one frame."""
        left, _, top, *_ = conv._padding
        with torch.device("meta"):
            made = cls(conv.in_channels, conv.out_channels, conv.kernel_size[1:], conv.stride[1:], (top, left))
        weight = conv.weight[:, :, -1].contiguous(memory_format=torch.channels_last)
        made.weight = nn.Parameter(weight, requires_grad=False)
        made.bias = conv.bias
        return made

    def forward(self, x: Tensor, cache_x: None = None) -> Tensor:
        return super().forward(x[:, :, 0])[:, :, None]


@torch.no_grad()
def fold(autoencoder: nn.Module) -> None:
    """Fold an `AutoencoderKLQwenImage` in place; convolutions over time alone, which one frame never meets, go."""
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d, QwenImageResample

    for part in list(autoencoder.modules()):
        if isinstance(part, QwenImageResample) and hasattr(part, "time_conv"):
            del part.time_conv
    replace(autoencoder, lambda part: FrameConv.of(part) if isinstance(part, QwenImageCausalConv3d) else None)
