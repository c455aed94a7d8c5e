"""LOSSY: the linear layers of a twin's blocks in fp8 (e4m3, a power of two for each row), half the bytes of bf16.

A way of keeping weights, not of computing: a weight is made whole in bf16 for its product and dropped (compact.py), so
memory is what is saved. Nothing else of the fast path differs from the plain one by more than rounding; this does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from apex_cli.backbones import compact


def packed(twin: Any) -> Any:
    """A twin of the `Fast` backbone `twin`, which stays as it was; before `make_static`."""
    made = twin.again()
    compact.pack_layers(made.network, "fp8")
    exact = made._velocity

    def velocity(x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
        """In bf16, as packed layers answer."""
        with torch.autocast(x_t.device.type, torch.bfloat16):
            return exact(x_t, t, cond).to(x_t.dtype)

    made._velocity = velocity
    return made
