"""The repeated blocks of a network: what sharding, compiling, checkpointing and counting take one by one."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


def lists(network: nn.Module) -> Iterator[tuple[str, nn.ModuleList]]:
    """The network's own module lists by name, as in all transformers of diffusers."""
    for name, child in network.named_children():
        if isinstance(child, nn.ModuleList):
            yield name, child


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """What those lists hold."""
    for _, held in lists(network):
        yield from held
