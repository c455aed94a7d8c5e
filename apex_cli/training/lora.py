"""LoRA on one resident base: the same network serves as student (adapters on) and as frozen base (adapters off)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from apex_cli.errors import UsageError
from apex_cli.training.settings import LoraSettings

ADAPTER = "default"
FILE = "pytorch_lora_weights.safetensors"


def add(network: Any, settings: LoraSettings, targets: tuple[str, ...], seed: int) -> None:
    """Put fresh fp32 adapters (gaussian init, so that the start equals the base) on `targets`."""
    import torch
    from diffusers.training_utils import cast_training_params
    from peft import LoraConfig

    if not targets:
        raise UsageError("This backbone has no LoRA.", 'Set train.tuning = "full".')
    targets = settings.targets or targets
    if missing := [t for t in targets if not any(name.endswith(t) for name, _ in network.named_modules())]:
        raise UsageError(f"No module of the network is called {', '.join(missing)}.", "Check train.lora.targets.")
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha or settings.rank,  # pyright: ignore[reportArgumentType]  # a fraction works too
        init_lora_weights="gaussian",
        target_modules=list(targets),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network.add_adapter(config, adapter_name=ADAPTER)
    cast_training_params(network, torch.float32)


def save(backbone: Any, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors` with rank and alpha in its metadata, as the stock pipeline reads it."""
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    network = backbone.network
    metadata = _collate_lora_metadata({"transformer": network})
    for facts in metadata.values():
        facts["target_modules"] = sorted(facts["target_modules"])  # a set, whose order would change the file
    weights = get_peft_model_state_dict(network, adapter_name=ADAPTER)
    type(backbone.pipeline).save_lora_weights(folder, transformer_lora_layers=weights, **metadata)
    _sort_header(Path(folder) / FILE)


def _sort_header(file: Path) -> None:
    """Rewrite a safetensors file with its header sorted: the library orders metadata at random, and equal weights
    must give equal files. The header is JSON after its length in 8 bytes, padded with spaces to a multiple of 8."""
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:end]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])


def load(backbone: Any, folder: Path) -> None:
    """Put the adapter saved in `folder` on a backbone that has none, through the stock pipeline's own loader."""
    backbone.pipeline.load_lora_weights(folder, weight_name=FILE, adapter_name=ADAPTER)


def fuse(backbone: Any) -> None:
    """Add the adapters to the weights they adapt, so that the model is like any other."""
    backbone.pipeline.fuse_lora()
    backbone.pipeline.unload_lora_weights()


def load_weights(backbone: Any, folder: Path) -> None:
    """Read saved adapter weights into adapters that are already there; raises `RuntimeError` where they do not fit."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    weights = {key.removeprefix("transformer."): value for key, value in load_file(folder / FILE).items()}
    found = set_peft_model_state_dict(backbone.network, weights, adapter_name=ADAPTER)
    if found.unexpected_keys:
        raise RuntimeError(f"no such adapters: {', '.join(found.unexpected_keys)}")


@contextmanager
def disabled(network: nn.Module) -> Iterator[None]:
    """The base without adapters. Sets peft's switch itself: `disable_adapters()` would also toggle `requires_grad`."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False
