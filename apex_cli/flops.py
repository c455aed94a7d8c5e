"""Counting floating-point operations as they are dispatched, on tensors with or without memory.

FLOPs are those of matrix products, convolutions and attention (a multiply-add counts two), by torch's own formulas.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


def _conv_backward(grad, x, weight, bias, stride, pad, dilation, transposed, out_pad, groups, mask, **_: Any) -> int:
    """Either gradient costs as much as the forward. torch's formula multiplies the one of the weight by `groups`."""
    return conv_flop_count(x, weight, grad, transposed) * (mask[0] + mask[1])


def _attention(query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query, key, value)


def _attention_backward(grad, query, key, value, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, query, key, value)


FORMULAS = {
    aten.convolution_backward: _conv_backward,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's counter lacks or gets wrong."""


class Flops(TorchDispatchMode):
    """torch's formulas without its counter's sums by module, whose hooks keep alive what gradient checkpointing would
    free, and without its search for decompositions: an operation that arrives here under autograd has none left."""

    def __init__(self) -> None:
        super().__init__()
        self.formulas = FlopCounterMode(display=False, custom_mapping=FORMULAS).flop_registry
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if formula := self.formulas.get(func._overloadpacket):
            self.total += formula(*args, **kwargs, out_val=out)
        return out
