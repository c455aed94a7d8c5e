"""SANA folded: the time embedding, projections, convolutions, and the text behind the human instruction."""

from __future__ import annotations

from typing import Any

import torch

from apex_cli.backbones.fast import channels, modulation, projections
from apex_cli.backbones.fast.reader import PrefixedReader
from apex_cli.backbones.fast.twin import Fast
from apex_cli.backbones.sana import Sana
from apex_cli.flow.condition import Cond


class FastSana(Fast, Sana):
    """The twin of a `Sana`."""

    def fold(self, times: tuple[float, ...]) -> list[str]:
        modulation.fold_sana(self.network, times)
        projections.fuse_sana(self.network)
        channels.fold(self.network)
        channels.fold_all(self.autoencoder)
        self.times = times
        prefix = self.pipeline.tokenizer.encode(self.instruction())[: self.head]
        self.text_encoder = PrefixedReader(self.text_encoder, prefix)
        return ["modulation", "projections", "channels", "prefix"]

    def real(self, tokens: Any) -> list[int]:
        return (tokens.attention_mask.sum(1) - self.head + 1).tolist()

    def embed(self, tokens: Any) -> Cond:
        """Gemma-2's last hidden state of the first token and of what follows the instruction."""
        reader, ids = self.text_encoder, tokens.input_ids
        follows, device = reader.follows(ids), reader.device
        mask = tokens.attention_mask[:, [0, *range(self.head, ids.shape[1])]].bool().to(device)
        ids = (ids[:, self.head :] if follows else ids).to(device)
        after = reader.after(ids) if follows else reader.whole(ids)[:, self.head :]
        return Cond(torch.cat([reader.states[:, :1].expand(len(ids), -1, -1), after], dim=1), mask)
