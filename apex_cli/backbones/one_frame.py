"""A video autoencoder that is only ever shown single frames computes them in two dimensions.

A causal kernel sees the frame behind zeros: only its last slice in time meets anything, so W[:, :, -1] as a 2-D
convolution gives the same picture and the same gradient at about half the time (ours).
"""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import conv2d

from apex_cli.backbones.sharing import shared


@cache
def _classes() -> tuple[type, type]:
    """diffusers' causal convolution, and the same one for a single frame."""
    from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d

    class OneFrameConv(QwenImageCausalConv3d):
        def forward(self, x: Tensor, cache_x: None = None) -> Tensor:
            """[B, C, 1, H, W] to the same of the convolved size."""
            sides: Any = self._padding
            left, _, top, *_ = sides
            frame = conv2d(x[:, :, 0], self.weight[:, :, -1], self.bias, self.stride[1:], (top, left))
            return frame[:, :, None]

    return QwenImageCausalConv3d, OneFrameConv


def narrow(autoencoder: nn.Module) -> None:
    """Let an `AutoencoderKLQwenImage` compute single frames only, in place; its weights and their names stay."""
    _turn(autoencoder, *_classes())


def stock(autoencoder: nn.Module) -> nn.Module:
    """A copy over the same tensors that computes as diffusers does; of another kind of autoencoder, itself."""
    causal, one_frame = _classes()
    if not any(type(part) is one_frame for part in autoencoder.modules()):
        return autoencoder
    made = shared(autoencoder)
    _turn(made, one_frame, causal)
    return made


def _turn(autoencoder: nn.Module, kind: type, into: type) -> None:
    for part in autoencoder.modules():
        if type(part) is kind:
            part.__class__ = into
