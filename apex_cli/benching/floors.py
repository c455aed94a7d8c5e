"""The least time that a device needs for one request: what no software can beat.

    floor = sum over modules of max(FLOPs / peak rate, bytes of weights / bandwidth)

That is every module at full efficiency, one after another, without a gap between two kernels, and activations for
nothing. Counted at batch 1; FLOPs grow with the batch, weights are read once.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from apex_cli.backbones.published import Lengths
from apex_cli.benching.counting import Count, count
from apex_cli.flow.condition import Cond
from apex_cli.gpus import Gpu

MODULATION = ("img_mod", "txt_mod", "time_text_embed", "norm_out.linear", "time_embed")
"""Modules that see the time and nothing else: at the known times of a few-step sampler they are a table."""
AS_WRITTEN, FOLDED, PREFIX, KNOWN = "as written", "exact foldings", "+ prefix kept", "+ prompt known"


@dataclass(frozen=True)
class Work:
    """The stages of a request of one picture: text encoder, transformer (one evaluation), autoencoder."""

    text: Count
    transformer: Count
    vae: Count

    def floor(self, gpu: Gpu, batch: int = 1, nfe: int = 1) -> dict[str, float]:
        """Seconds by stage."""
        stages = {"text": self.text, "transformer": self.transformer, "vae": self.vae}
        times = {name: seconds(stage, gpu, batch) for name, stage in stages.items()}
        return times | {"transformer": nfe * times["transformer"]}


def seconds(stage: Count, gpu: Gpu, batch: int) -> float:
    return sum(max(batch * p.flops / gpu.bf16, p.weights / gpu.bandwidth) for p in stage.parts.values())


def variants(backbone: Any, lengths: Lengths) -> dict[str, Work]:
    """What a request of `backbone`, which lies on the meta device, takes: as the stock pipeline computes it; at known
    times, with convolutions over a single frame; reading only what of the text differs between prompts; and with the
    prompt's embedding remembered."""
    network, decode = _transformer(backbone, lengths.seen), _decoder(backbone)
    written = Work(_text(backbone, lengths.written, 0), network, decode)
    folded = Work(written.text, network.without(*MODULATION), decode.single_frame())
    return {
        AS_WRITTEN: written,
        FOLDED: folded,
        PREFIX: replace(folded, text=_text(backbone, lengths.prompt, lengths.prefix)),
        KNOWN: replace(folded, text=Count({}, 0)),
    }


def _transformer(backbone: Any, tokens: int) -> Count:
    with torch.device("meta"):
        x, t = torch.empty(1, *backbone.latent_shape), torch.ones(1)
        cond = Cond(torch.empty(1, tokens, backbone.cond_dim), torch.ones(1, tokens, dtype=torch.bool))
    return count(backbone.network, lambda: backbone.velocity(x, t, cond))


def _decoder(backbone: Any) -> Count:
    latents = torch.empty(1, *backbone.latent_shape, device="meta")
    return count(backbone.autoencoder, lambda: backbone.decode(latents))


def _text(backbone: Any, tokens: int, prefix: int) -> Count:
    """The language model alone, whose last hidden state is the embedding: `tokens` after `prefix` remembered ones."""
    model = getattr(backbone.text_encoder, "model", backbone.text_encoder)
    masked = model.config._attn_implementation == "eager"  # each of the two ways looks at values in the other case
    with torch.device("meta"), torch.no_grad():
        ids = torch.zeros(1, prefix + tokens, dtype=torch.int64)

        def read(first: int, last: int, kept: Any = None) -> Any:
            mask = torch.ones(1, last, dtype=torch.int64) if masked else None
            return model(ids[:, first:last], attention_mask=mask, past_key_values=kept, use_cache=prefix > 0)

        kept = read(0, prefix).past_key_values if prefix else None
    return count(model, lambda: read(prefix, prefix + tokens, kept))
