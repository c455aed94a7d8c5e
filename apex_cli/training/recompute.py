"""Gradient checkpointing: blocks that keep nothing of a forward and compute it again in the backward.

A share s of every list of n blocks is its first s n blocks. The last ones are those whose activations go first in the
backward, so that what the first ones compute again finds their room free.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from apex_cli.backbones.blocks import lists
from apex_cli.errors import UsageError


class Recompute:
    """`shares`: one for all graphs of a step, or one for each, in the order in which the objective builds them. A graph
    is a forward with gradient; each micro-batch builds the same ones."""

    def __init__(self, network: Any, shares: Sequence[float]):
        self.shares = list(shares)
        self.place = {block: i / len(held) for _, held in lists(network) for i, block in enumerate(held)}
        self.graphs = 0
        if not any(shares):
            return
        if not hasattr(network, "enable_gradient_checkpointing"):
            raise UsageError("This backbone has no gradient checkpointing.", "Set train.gradient_checkpointing = 0.")
        network.enable_gradient_checkpointing(self._run)
        network.register_forward_pre_hook(self._enter)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Around the forwards of one micro-batch; raises `UsageError` unless every share has its graph."""
        self.graphs = 0
        yield
        if len(self.shares) > 1 and any(self.shares) and self.graphs != len(self.shares):
            raise self._miscounted()

    def of(self, block: nn.Module) -> Hashable:
        """In which graphs `block` is computed again."""
        return tuple(self.place[block] < share for share in self.shares)

    def _enter(self, network: nn.Module, _: Any) -> None:
        self.graphs += torch.is_grad_enabled()

    def _run(self, block: nn.Module, *args: Any) -> Any:
        """How the network calls a block where there are gradients."""
        if self.graphs > len(self.shares) > 1:
            raise self._miscounted()
        share = self.shares[0] if len(self.shares) == 1 else self.shares[self.graphs - 1]
        if self.place[block] < share:
            return checkpoint(block.__call__, *args, use_reentrant=False)
        return block(*args)

    def _miscounted(self) -> UsageError:
        built = "more" if self.graphs > len(self.shares) else self.graphs
        return UsageError(
            f"train.gradient_checkpointing names {len(self.shares)} graphs; a step of this objective builds {built}.",
            "Give one number for all, or one for each forward with gradient (`--plan` counts them).",
        )
