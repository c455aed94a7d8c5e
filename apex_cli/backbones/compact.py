"""Frozen linear layers in fewer bytes (fp8, NF4), or in the machine's memory until they are asked.

A packed layer computes in bf16. A weight is made whole for one product and dropped; a backward makes it whole again, so
that no graph holds on to it. Numbers are those of an ordinary layer whose weight was rounded to the format
(`round_weights`): loading, LoRA, fusing and export see ordinary layers, and a step or a picture is the same.

fp8 is e4m3 with a power of two for each row, so that packing what was rounded before loses nothing. NF4 is that of
QLoRA (arXiv 2305.14314) as bitsandbytes computes it: 4 bits a number, a float32 for each 64.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.nn.functional import linear

from apex_cli.backbones.blocks import blocks
from apex_cli.errors import SetupError
from apex_cli.extras import install

FORMATS = ("fp8", "nf4")
LARGEST = torch.finfo(torch.float8_e4m3fn).max
GROUP = 64
"""Numbers of NF4 that share a scale."""


def check(dtype: str) -> None:
    """Raise `SetupError` where the library of a format is missing."""
    if dtype == "nf4":
        try:
            import bitsandbytes  # noqa: F401  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            remedy = f'{install("quant")}, or set backbone.dtype = "fp8".'
            raise SetupError("backbone.dtype = 'nf4' needs bitsandbytes.", remedy) from error


def pack(weight: Tensor, dtype: str) -> tuple[Tensor, ...]:
    """What a layer keeps of `weight` [out, in]; on the meta device only the shapes are right."""
    if dtype == "fp8":
        largest = weight.abs().amax(1, keepdim=True).float().clamp(min=1e-30)
        scale = (largest / LARGEST).log2().ceil().exp2()
        return (weight.float() / scale).to(torch.float8_e4m3fn), scale.bfloat16()
    if dtype == "nf4":
        if weight.is_meta:
            return weight.new_empty(weight.numel() // 2, 1, dtype=torch.uint8), weight.new_empty(
                weight.numel() // GROUP, dtype=torch.float32
            )
        from bitsandbytes.functional import quantize_4bit  # pyright: ignore[reportMissingImports]

        values, state = quantize_4bit(weight.bfloat16().contiguous(), blocksize=GROUP, quant_type="nf4")
        return values, state.absmax
    return (weight,)


def unpack(kept: tuple[Tensor, ...], dtype: str, shape: torch.Size, device: torch.device) -> Tensor:
    """The weight on `device`, in bf16 where it was packed."""
    values, *scales = (part.to(device, non_blocking=True) for part in kept)
    if dtype == "fp8":
        return values.bfloat16().mul_(scales[0])
    if dtype == "nf4":
        whole = values.new_empty(shape, dtype=torch.bfloat16)
        if isinstance(values, FakeTensor):
            return whole
        from bitsandbytes.functional import dequantize_4bit  # pyright: ignore[reportMissingImports]

        return dequantize_4bit(values, absmax=scales[0], out=whole, blocksize=GROUP, quant_type="nf4")
    return values


class _Product(torch.autograd.Function):
    """x W^T + b that keeps the packed W for the backward, which only x gets."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, dtype: str, shape: torch.Size, *kept: Tensor) -> Tensor:
        ctx.save_for_backward(*kept)
        ctx.dtype, ctx.shape = dtype, shape
        return linear(x, unpack(kept, dtype, shape, x.device), bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        (gradient,), kept = gradients, ctx.saved_tensors  # checkpointing gives them once
        weight = unpack(kept, ctx.dtype, ctx.shape, gradient.device)
        return (gradient @ weight.to(gradient.dtype), None, None, None, *[None] * len(kept))


class CompactLinear(nn.Module):
    """Stands for a frozen `layer`. With `offload` its weight stays where it is when the module moves."""

    def __init__(self, layer: nn.Linear, dtype: str, offload: bool):
        super().__init__()
        self.dtype, self.shape = dtype, layer.weight.shape
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        kept = pack(layer.weight.detach(), dtype)
        self.away = tuple(_pinned(part) for part in kept) if offload else ()
        self.names = () if offload else ("values", "scale")[: len(kept)]
        for name, part in zip(self.names, kept, strict=not offload):
            self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        x = x.bfloat16() if self.dtype in FORMATS else x
        kept = self.away or tuple(getattr(self, name) for name in self.names)
        return cast(Tensor, _Product.apply(x, self.bias, self.dtype, self.shape, *kept))

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.dtype}{', away' if self.away else ''}"


def _pinned(part: Tensor) -> Tensor:
    return part.pin_memory() if torch.cuda.is_available() and part.device.type == "cpu" else part


def compress(backbone: Any) -> None:
    """Lay the frozen linear layers of the transformer's blocks as `[backbone] dtype` and `offload` say."""
    config = backbone.config
    dtype, offload = getattr(config, "dtype", "fp32"), getattr(config, "offload", False)
    if dtype not in FORMATS and not offload:
        return
    check("" if backbone.network.device.type == "meta" else dtype)
    pack_layers(backbone.network, dtype, offload)


def pack_layers(network: nn.Module, dtype: str, offload: bool = False) -> None:
    """Put compact layers in the place of those of the blocks, which stay as they were."""
    for parent, name, layer in list(_layers(network)):
        setattr(parent, name, CompactLinear(layer, dtype, offload))


@torch.no_grad()
def round_weights(network: nn.Module, dtype: str) -> None:
    """Give those layers the values that the format can tell; they stay ordinary layers."""
    for _, _, layer in _layers(network):
        weight = layer.weight
        weight.copy_(unpack(pack(weight, dtype), dtype, weight.shape, weight.device))


def _layers(network: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """(parent, name, layer) of the blocks' frozen linear layers. Those that a norm takes its scale from stay as they
    are, as in diffusers' layerwise casting: rounding them costs more than it saves."""
    for block in blocks(network):
        for path, parent in block.named_modules():
            if "norm" in path or "lora_" in path:
                continue
            for name, layer in parent.named_children():
                if type(layer) is not nn.Linear or layer.weight.requires_grad:
                    continue
                if "norm" not in name and layer.weight.numel() % GROUP == 0:
                    yield parent, name, layer


def compact_layers(module: nn.Module) -> Iterator[CompactLinear]:
    return (part for part in module.modules() if isinstance(part, CompactLinear))


def traceable(module: nn.Module) -> bool:
    """Whether a graph, compiled or recorded, can hold a forward of `module`: not where weights are away or in nf4."""
    return not any(layer.away or layer.dtype == "nf4" for layer in compact_layers(module))


def numel(module: nn.Module) -> int:
    """Parameters of a module, whatever they are packed in."""
    packed = sum(layer.shape.numel() for layer in compact_layers(module))
    return packed + sum(value.numel() for value in module.parameters())


def away_bytes(module: nn.Module) -> list[int]:
    """Of each layer, what lies in the machine's memory."""
    return [sum(part.nbytes for part in layer.away) for layer in compact_layers(module)]
