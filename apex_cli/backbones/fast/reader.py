"""A causal language model behind a constant beginning: Qwen-Image's chat template, SANA's human instruction.

Every prompt follows the same tokens, whose keys and values are the same each time: they are computed once and kept, and
a pass reads the prompt alone. Padding stands right, where a causal model does not look, so there is no mask. The head
that predicts words and the tower that sees pictures are not part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from apex_cli.backbones.fast import graphs


class PrefixedReader(nn.Module):
    """`model` after the tokens `prefix`: `kept` [layers, 2, 1, heads, P, head width] are their keys and values,
    `states` [1, P, D] their last hidden states."""

    kept: Tensor
    states: Tensor

    @torch.no_grad()
    def __init__(self, model: Any, prefix: Sequence[int]):
        super().__init__()
        self.model, self.prefix = model, torch.tensor(prefix)
        answer = model(input_ids=self.prefix[None].to(model.device), use_cache=True)
        layers = [torch.stack([layer.keys, layer.values]) for layer in answer.past_key_values.layers]
        self.register_buffer("kept", torch.stack(layers), persistent=False)
        self.register_buffer("states", answer.last_hidden_state, persistent=False)

    @property
    def device(self) -> torch.device:
        return self.kept.device

    def follows(self, ids: Tensor) -> bool:
        """Whether every row of `ids` [B, L], on the host, begins with the prefix and goes on: a prompt may begin with
        what melts into the last token before it."""
        length = len(self.prefix)
        return ids.shape[1] > length and torch.equal(ids[:, :length], self.prefix.expand(len(ids), -1))

    def after(self, ids: Tensor) -> Tensor:
        """Last hidden states [B, L, D] of the tokens `ids` [B, L] that follow the prefix."""
        length = ids.shape[1]
        if isinstance(self.forward, graphs.Replay):
            ids = pad(ids, (0, graphs.rounded(length) - length))
        return self(ids)[:, :length]

    def forward(self, ids: Tensor) -> Tensor:
        """What `after` answers, from the model."""
        from transformers import DynamicCache

        before = [layer.expand(-1, len(ids), -1, -1, -1).unbind() for layer in self.kept]
        # Not told of windows, which are far longer than a prompt: layers that slide copy their width from the host.
        cache = DynamicCache(ddp_cache_data=before)
        return self.model(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state

    def whole(self, ids: Tensor) -> Tensor:
        """Last hidden states of all tokens `ids` [B, L], without the prefix kept."""
        return self.model(input_ids=ids, use_cache=False).last_hidden_state
