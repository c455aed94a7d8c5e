"""One LoRA file in the form that ComfyUI reads, and its inverse.

ComfyUI (comfy/lora.py, comfy/weight_adapter/lora.py) maps `transformer.` + diffusers' module name to its own weights
for the classes below, takes `lora_B`, `lora_A` and `alpha` of each and adds alpha / rank * B A; where `alpha` is
missing, it scales by 1. It does not read the metadata in which diffusers keeps alpha. It has a place for every linear
layer of these classes, q, k and v in rows of one weight: tests/commands/comfyui_rules.py states them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, dtype, tensor
from torch.nn import Module

from apex_cli.errors import CheckpointError
from apex_cli.training.lora import ADAPTER

READ_FOR = {"FluxPipeline", "QwenImagePipeline", "StableDiffusion3Pipeline", "ZImagePipeline"}
"""Pipeline classes whose diffusers names ComfyUI maps. It has no SANA of its own."""
PREFIX = "transformer."


def adapted(network: Module) -> Iterator[tuple[str, Any]]:
    """(name, peft layer) of every module that carries our adapter."""
    for name, layer in network.named_modules():
        if ADAPTER in getattr(layer, "lora_A", {}):
            yield name, layer


def save(network: Module, file: Path, number_format: dtype) -> None:
    """Write A and B of every adapted module in `number_format`, and its alpha in fp32."""
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {}
    for name, layer in adapted(network):
        for half in ("lora_A", "lora_B"):
            value = getattr(layer, half)[ADAPTER].weight.detach()
            tensors[f"{PREFIX}{name}.{half}.weight"] = value.to(number_format).contiguous()
        tensors[f"{PREFIX}{name}.alpha"] = tensor(float(layer.scaling[ADAPTER] * layer.r[ADAPTER]))
    save_file(tensors, file, metadata={"format": "pt"})


def updates(file: Path) -> Iterator[tuple[str, Tensor]]:
    """(module, weight update alpha / rank * B A [out, in...]), computed as ComfyUI does.

    Raises `CheckpointError` where a key belongs to no complete module.
    """
    from safetensors.torch import load_file

    tensors = load_file(file)
    modules = [key.removesuffix(".alpha") for key in tensors if key.endswith(".alpha")]
    parts = {name: [f"{name}.lora_B.weight", f"{name}.lora_A.weight", f"{name}.alpha"] for name in modules}
    if stray := set(tensors) ^ {key for keys in parts.values() for key in keys}:
        raise CheckpointError(f"Keys of '{file.name}' that form no module: {', '.join(sorted(stray)[:3])}.")
    for name, keys in parts.items():
        b, a, alpha = (tensors[key].float() for key in keys)
        product = (alpha / a.shape[0]) * (b.flatten(1) @ a.flatten(1))
        yield name.removeprefix(PREFIX), product.reshape(b.shape[0], *a.shape[1:])


def largest_difference(network: Module, file: Path) -> float:
    """Largest difference between the updates of `file` and those that peft computes for the live adapters."""
    live, largest = dict(adapted(network)), 0.0
    for name, update in updates(file):
        if name not in live:
            raise CheckpointError(f"'{file.name}' adapts {name}, the run does not.")
        own = live.pop(name).get_delta_weight(ADAPTER).detach().float()
        largest = max(largest, float((own - update).abs().max()))
    if live:
        raise CheckpointError(f"'{file.name}' lacks {next(iter(live))}.")
    return largest
