"""Convolutions of 1 x 1 as products over the channels, and the others with channels last in memory.

SANA hands its tokens [B, N, C] to the layers that mix them as a view [B, C, H, W], so channels lie last there already:
a product needs no copy and is what a convolution of 1 x 1 is. An autoencoder whose kernels lie so keeps to it from the
first convolution on; its norms, which move the channels last, move nothing then.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from apex_cli.backbones.sharing import replace


class Pointwise(nn.Linear):
    """A convolution of 1 x 1 over [B, C, H, W], with its weights [out, in]."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Pointwise:
        """The same answer as `conv`, from the same memory."""
        with torch.device("meta"):
            made = cls(conv.in_channels, conv.out_channels, conv.bias is not None)
        made.weight = nn.Parameter(conv.weight[:, :, 0, 0], requires_grad=False)
        made.bias = conv.bias
        return made

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


@torch.no_grad()
def fold(network: nn.Module) -> None:
    """Replace the convolutions of 1 x 1 of `network`."""
    replace(network, lambda part: Pointwise.of(part) if isinstance(part, nn.Conv2d) and _is_pointwise(part) else None)


@torch.no_grad()
def fold_all(autoencoder: nn.Module) -> None:
    """`fold`, and lay the kernels of the other convolutions channels last, in new memory."""
    fold(autoencoder)
    for part in autoencoder.modules():
        if isinstance(part, nn.Conv2d):
            weight = part.weight.detach().clone(memory_format=torch.channels_last)
            part.weight = nn.Parameter(weight, requires_grad=False)


def _is_pointwise(conv: nn.Conv2d) -> bool:
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1
