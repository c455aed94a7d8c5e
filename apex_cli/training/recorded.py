"""Forwards and backward of a micro-batch as one CUDA graph for each set of shapes, launched as one.

A step of SANA 0.6B launches thousands of kernels, which on a small micro-batch take less time than their launches. What
is recorded is the whole of it: the objective, its networks, and the gradients, which are added to memory that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from apex_cli.backbones.compact import traceable
from apex_cli.backbones.fast import graphs
from apex_cli.errors import UsageError
from apex_cli.objectives.base import Batch, Draws, Loss
from apex_cli.training.settings import TrainConfig

Compute = Callable[[Batch, Draws], Loss]
"""The loss of a micro-batch, whose gradient it has added to that of the weights."""


class Recorded:
    """`compute` by replay. `begin` a step, ask for any number of micro-batches, and let the optimizer step."""

    def __init__(self, compute: Compute, params: Sequence[nn.Parameter], capture: graphs.Capture | None = None):
        self.compute, self.params = compute, params
        self.gradients = [torch.zeros_like(value) for value in params]
        self.capture = capture or graphs.Recorder()
        self.replay = graphs.Replay(self._detached, self._capture)

    def begin(self) -> None:
        """No gradient yet."""
        torch._foreach_zero_(self.gradients)

    def __call__(self, batch: Batch, draws: Draws) -> Loss:
        """The loss without its graph, until the next call; its gradient is added to that of `params`."""
        for value, gradient in zip(self.params, self.gradients, strict=True):
            value.grad = gradient
        return self.replay.run(batch, draws)

    @torch.enable_grad()
    def _detached(self, batch: Batch, draws: Draws) -> Loss:
        loss = self.compute(batch, draws)
        return replace(loss, parts={name: part.detach() for name, part in loss.parts.items()})

    def _capture(self, function: Callable[[], Any]) -> Any:
        """The runs before a recording add to the gradients too."""
        before = [gradient.clone() for gradient in self.gradients]
        made = self.capture(function)
        torch._foreach_copy_(self.gradients, before)
        return made


def rounded(batch: Batch) -> Batch:
    """With texts of few lengths."""
    cond, uncond = (c and c.padded(graphs.rounded(c.tokens.shape[1])) for c in (batch.cond, batch.uncond))
    return replace(batch, cond=cond, uncond=uncond)


def check(config: TrainConfig, network: nn.Module, sharded: bool, live: bool) -> None:
    """Raise `UsageError` for a run whose steps cannot be recorded. `live`: its text encoder is trained."""
    hindrances = {
        "weights that lie in shards": sharded,
        "a text encoder that is trained": live,
        "gradient checkpointing": any(config.recomputed),
        "weights that are offloaded or in nf4": not traceable(network),
    }
    for name in [name for name, found in hindrances.items() if found]:
        raise UsageError(f"train.graphs does not go with {name}.", "Set train.graphs = false.")
