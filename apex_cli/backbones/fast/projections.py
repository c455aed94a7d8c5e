"""Query, key and value of one input in one product.

diffusers' `fuse_qkv_projections` does it for FLUX. Its processors for Qwen-Image and SANA do not read fused layers (and
that of Stable Diffusion 3 leaves the norms of 3.5 out), so the two have processors here; what surrounds the products is
theirs. Qwen's also takes the mask of text and image ready made: the stock one builds it anew in every block. Its
rotation stays a product of complex numbers, as diffusers has it, but where it is compiled, which has no complex
kernels: the same product of real numbers is one with the norms around it then.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, relu, scaled_dot_product_attention


@torch.no_grad()
def join(parent: nn.Module, names: tuple[str, ...], name: str) -> None:
    """Replace the linear layers `names` of `parent`, which read the same, by one, `name`."""
    parts = [getattr(parent, part) for part in names]
    weight = torch.cat([part.weight for part in parts])
    with torch.device("meta"):
        joined = nn.Linear(weight.shape[1], weight.shape[0], bias=parts[0].bias is not None)
    joined.weight = nn.Parameter(weight, requires_grad=False)
    if parts[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([part.bias for part in parts]), requires_grad=False)
    for part in names:
        delattr(parent, part)
    setattr(parent, name, joined)


def normed(attn: Any, query: Tensor, key: Tensor, kind: str = "") -> tuple[Tensor, Tensor]:
    """Through the norms `norm_KINDq` and `norm_KINDk` where there are any."""
    first, second = getattr(attn, f"norm_{kind}q"), getattr(attn, f"norm_{kind}k")
    return query if first is None else first(query), key if second is None else second(key)


class RealRotation(nn.Module):
    """Qwen-Image's position embedding with its complex numbers as pairs of real ones, which graphs may take in."""

    def __init__(self, embedding: nn.Module):
        super().__init__()
        self.embedding = embedding

    def forward(self, *args: Any, **kwargs: Any) -> tuple[Tensor, ...]:
        return tuple(torch.view_as_real(freqs) for freqs in self.embedding(*args, **kwargs))


def rotated(x: Tensor, freqs: Tensor) -> Tensor:
    """`x` [B, L, heads, D], pairs of neighbours as complex numbers, times `freqs` [L, D / 2, 2]; in float32."""
    if not torch.compiler.is_compiling():
        from diffusers.models.transformers.transformer_qwenimage import apply_rotary_emb_qwen

        turned: Any = apply_rotary_emb_qwen(x, torch.view_as_complex(freqs), use_real=False)
        return turned  # not the pair that it is annotated with
    real, imaginary = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = freqs.unsqueeze(1).unbind(-1)
    turned = torch.stack([real * cos - imaginary * sin, real * sin + imaginary * cos], dim=-1)
    return turned.flatten(-2).type_as(x)


class JointAttention:
    """Qwen-Image's double stream; `joint_mask` [B, 1, 1, text + image] is True where a key is real."""

    def __init__(self) -> None:
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        self.attention = dispatch_attention_fn

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: None = None,
        encoder_hidden_states_mask: None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        joint_mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        streams = []
        for x, layer, kind, freqs in zip(
            (encoder_hidden_states, hidden_states),
            (attn.to_added_qkv, attn.to_qkv),
            ("added_", ""),
            reversed(image_rotary_emb or (None, None)),
            strict=True,
        ):
            query, key, value = layer(x).unflatten(-1, (3, attn.heads, -1)).unbind(2)
            query, key = normed(attn, query, key, kind)
            if freqs is not None:
                query, key = rotated(query, freqs), rotated(key, freqs)
            streams.append((query, key, value))
        joint = [torch.cat(pair, dim=1) for pair in zip(*streams, strict=True)]
        out = self.attention(*joint, attn_mask=joint_mask, dropout_p=0.0, is_causal=False).flatten(2, 3)
        length = encoder_hidden_states.shape[1]
        return attn.to_out[0](out[:, length:]), attn.to_add_out(out[:, :length])


class LinearAttention:
    """SANA's self-attention, in float32: relu(Q) (relu(K)^T V), each row divided by its sum of weights."""

    def __call__(self, attn: Any, hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
        query, key, value = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        query, key = normed(attn, query, key)
        query, key, value = (x.mT.unflatten(1, (attn.heads, -1)) for x in (query, key, value))
        query, key = relu(query).float(), relu(key).float()
        scores = pad(value.float(), (0, 0, 0, 1), value=1.0) @ key.mT
        out = scores @ query
        out = (out[:, :, :-1] / (out[:, :, -1:] + 1e-15)).flatten(1, 2).mT.to(hidden_states.dtype)
        return attn.to_out[0](out)


class CrossAttention:
    """SANA's attention to the text; `attention_mask` [B, 1, L] is added to the scores."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, attention_mask: Tensor | None = None
    ) -> Tensor:
        query = attn.to_q(hidden_states)
        key, value = attn.to_kv(encoder_hidden_states).chunk(2, dim=-1)
        query, key = normed(attn, query, key)
        query, key, value = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
        mask = None if attention_mask is None else attention_mask[:, None]
        out = scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return attn.to_out[0](out.transpose(1, 2).flatten(2))


def fuse_qwen(network: Any) -> None:
    """Fuse a `QwenImageTransformer2DModel` in place."""
    network.pos_embed = RealRotation(network.pos_embed)
    for block in network.transformer_blocks:
        join(block.attn, ("to_q", "to_k", "to_v"), "to_qkv")
        join(block.attn, ("add_q_proj", "add_k_proj", "add_v_proj"), "to_added_qkv")
        block.attn.set_processor(JointAttention())


def fuse_sana(network: Any) -> None:
    """Fuse a `SanaTransformer2DModel` in place."""
    for block in network.transformer_blocks:
        join(block.attn1, ("to_q", "to_k", "to_v"), "to_qkv")
        block.attn1.set_processor(LinearAttention())
        join(block.attn2, ("to_k", "to_v"), "to_kv")
        block.attn2.set_processor(CrossAttention())


def fuse_flux(network: Any) -> None:
    """diffusers' own fusion of a `FluxTransformer2DModel`, without the layers it leaves behind."""
    network.fuse_qkv_projections()
    for part in network.modules():
        if getattr(part, "fused_projections", False):
            for name in ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj"):
                if getattr(part, name, None) is not None:
                    delattr(part, name)
