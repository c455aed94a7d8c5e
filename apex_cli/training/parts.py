"""The parts of a pipeline that a run trains: how they are made trainable, saved and loaded again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from apex_cli.backbones import compact
from apex_cli.errors import UsageError
from apex_cli.objectives.base import Needs
from apex_cli.training import lora, sharding
from apex_cli.training.recompute import Recompute
from apex_cli.training.settings import TrainConfig


class Parts:
    """`modules`: the trained components by their pipeline name; `named`: the trained tensors by a stable name."""

    def __init__(self, backbone: Any, needs: Needs, config: TrainConfig, extra: nn.Module | None):
        self.backbone, self.lora = backbone, config.tuning == "lora"
        if needs.trains != "transformer" and (self.lora or config.text_encoder):
            remedy = 'Set train.tuning = "full" and train.text_encoder = false.'
            raise UsageError(f"This objective trains the whole {needs.trains} and nothing else.", remedy)
        if needs.trains == "autoencoder":
            self.modules: dict[str, Any] = {"vae": backbone.autoencoder}
        elif needs.trains == "text_encoder":
            self.modules = {"text_encoder": getattr(backbone, "text_encoder", None)}
        else:
            self.modules = {"transformer": backbone.network}
            if config.text_encoder:
                self.modules["text_encoder"] = getattr(backbone, "text_encoder", None)
        if "text_encoder" in self.modules and not hasattr(self.modules["text_encoder"], "save_pretrained"):
            raise UsageError("This backbone has not just one text encoder.", "Train its transformer.")
        if not self.lora and getattr(backbone.config, "dtype", "fp32") != "fp32":
            raise UsageError("Weights that are trained must be in fp32.", 'Set backbone.dtype = "fp32", or use LoRA.')
        if not self.lora and getattr(backbone.config, "offload", False):
            raise UsageError("backbone.offload is for frozen weights.", "Set it to false, or use LoRA.")
        self.extra = extra
        if self.lora:
            lora.add(backbone.network, config.lora, backbone.lora_targets, config.seed)
            compact.compress(backbone)
            if config.sharding == "fsdp" and any(compact.compact_layers(backbone.network)):
                remedy = 'Set backbone.dtype = "bf16" and offload = false, or train.sharding = "none".'
                raise UsageError("Compact or offloaded weights cannot be sharded.", remedy)
        else:
            for module in self.modules.values():
                module.requires_grad_(True)
        for name, value in self.named.items():
            if name.startswith(backbone.unused):
                value.requires_grad_(False)
        if needs.trains != "transformer" and any(config.recomputed):
            raise UsageError(f"This objective trains the {needs.trains}; only a transformer can be checkpointed.",
                             "Set train.gradient_checkpointing = 0.")  # fmt: skip
        self.recompute = Recompute(backbone.network, config.recomputed)
        self.hollow: nn.Module | None = None
        """The transformer without weights, where a full run has them in shards."""

    @property
    def named(self) -> dict[str, nn.Parameter]:
        modules = self.modules | ({} if self.extra is None else {"objective": self.extra})
        return {
            f"{name}.{key}": value
            for name, module in modules.items()
            for key, value in module.named_parameters()
            if value.requires_grad
        }

    def shard(self, device: torch.device, *copies: nn.Module) -> None:
        """Lay the transformer, and copies of it, in shards over the ranks; adapters are small and stay whole."""
        network = self.backbone.network
        whole = {name for name, value in network.named_parameters() if self.lora and value.requires_grad}
        self.hollow = None if self.lora else sharding.hollow(network)
        for module in (network, *copies):
            sharding.shard(module, device, whole)

    def save(self, folder: Path | None) -> None:
        """Component folders as `save_pretrained` writes them, or one LoRA file; learned objective tensors beside.

        Where weights lie in shards all ranks take part; those that do not write call this with None.
        """
        from safetensors.torch import save_file

        modules: dict[str, Any] = {} if self.lora else self.modules
        if self.hollow is not None:
            modules = modules | {"transformer": sharding.gather(self.backbone.network, self.hollow)}
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        if self.lora:
            lora.save(self.backbone, folder)
        for name, module in modules.items():
            module.save_pretrained(folder / name)
        if self.extra is not None:
            save_file(self.extra.state_dict(), folder / "objective.safetensors")

    def load(self, folder: Path) -> None:
        """Inverse of `save`, into the modules that are already there."""
        from safetensors.torch import load_file

        self.load_networks(folder)
        if self.extra is not None:
            self.extra.load_state_dict(load_file(folder / "objective.safetensors"))

    def load_networks(self, folder: Path) -> None:
        """The trained networks, or their adapters, of a folder that `save` wrote or of a whole pipeline."""
        if self.lora:
            lora.load_weights(self.backbone, folder)
        else:
            load_components(self.backbone, folder, tuple(self.modules))


MODULES = {"transformer": "network", "text_encoder": "text_encoder", "vae": "autoencoder"}
"""Attributes of a backbone by the names of their folders."""


def load_components(backbone: Any, folder: Path, names: Sequence[str] = tuple(MODULES)) -> None:
    """Load the component folders `names` found in `folder` into the backbone's modules of these names."""
    for name in names:
        if (folder / name).is_dir():
            module = getattr(backbone, MODULES[name])
            loaded = sharding.stock_class(module).from_pretrained(folder / name, use_safetensors=True)
            sharding.load(module, loaded.state_dict())
