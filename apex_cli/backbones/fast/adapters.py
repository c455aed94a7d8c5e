"""LoRA merged: W + (alpha / r) B A, in new tensors, so that a model that shares W keeps its adapters apart.

Unmerged, every adapted layer costs two more products and two more passes over its output.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from apex_cli.backbones.sharing import replace, shared


@torch.no_grad()
def merge(network: nn.Module) -> bool:
    """Merge the active adapters of `network` in place; whether there were any."""
    from peft.tuners.lora import LoraLayer

    def merged(part: nn.Module) -> nn.Module | None:
        if not isinstance(part, LoraLayer):
            return None
        lora: Any = part  # `get_delta_weight` is of its subclasses
        layer: Any = shared(lora.get_base_layer())
        weight = layer.weight.float()
        for name in lora.active_adapters:
            weight = weight + lora.get_delta_weight(name).float()
        layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
        return layer

    found = replace(network, merged)
    for name in ("peft_config", "_hf_peft_config_loaded"):
        network.__dict__.pop(name, None)
    return found > 0
