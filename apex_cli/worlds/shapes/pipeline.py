"""An ordinary `SanaPipeline` of tiny size for the shapes world, built from configuration alone (nothing is downloaded).

Real diffusers and transformers classes throughout: GemmaTokenizer with a word-level vocabulary, Gemma-2, AutoencoderDC,
SanaTransformer2DModel, FlowMatchEulerDiscreteScheduler. The weights are fresh; `apex train` trains them.
"""

from __future__ import annotations

import string
from collections.abc import Iterable, Sequence
from typing import Any

from apex_cli.config import Section
from apex_cli.worlds.shapes.vocabulary import WORDS

SIZE = 64
"""Pixels of a side of every image of this world."""
STARTERS = ("a", "an", "two", "three", "four", "five")
"""Words a caption can begin with: they need tokens without the leading space mark."""


class TinySanaConfig(Section):
    """Sizes of the fresh pipeline. The autoencoder maps 64 px to `64 / 2**(len(vae_channels) - 1)` latent pixels."""

    width: int = 160
    layers: int = 6
    heads: int = 5
    patch: int = 2
    latent_channels: int = 8
    vae_channels: tuple[int, ...] = (16, 32, 64, 128)
    text_width: int = 128
    text_layers: int = 2
    seed: int = 0


def spell(words: Iterable[str], vocab: dict[str, int]) -> list[Any]:
    """Merges (pairs of strings) that make each of `words` one token, letter by letter; new tokens go into `vocab`.

    Earlier words win: one that begins with a space mark must stand before words that could occur inside it.
    """
    merges = []
    for word in words:
        for end in range(1, len(word)):
            if word[: end + 1] not in vocab:
                merges.append((word[:end], word[end]))
                vocab[word[: end + 1]] = len(vocab)
    return merges


def build_tokenizer(more: Sequence[str] = ()):
    """A GemmaTokenizer whose merges spell every word of the world, and `more`, as one token; other text is letters and
    bytes."""
    from transformers import GemmaTokenizer

    vocab: dict[str, int] = {}
    for token in ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *string.ascii_lowercase, *string.digits):
        vocab[token] = len(vocab)
    merges = spell([*(f"▁{word}" for word in WORDS), *STARTERS], vocab)
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    for letter in sorted({letter for word in more for letter in word} - vocab.keys()):
        vocab[letter] = len(vocab)
    merges += spell((f"▁{word}" for word in more), vocab)
    return GemmaTokenizer(vocab=vocab, merges=merges, add_bos_token=True)


def build_text_encoder(config: TinySanaConfig, tokenizer):
    """Gemma-2 of `text_layers` layers; its last hidden state (RMS-normalised) is the prompt embedding."""
    from transformers import Gemma2Config, Gemma2Model

    return Gemma2Model(
        Gemma2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=2 * config.text_width,
            num_hidden_layers=config.text_layers,
            num_attention_heads=4,
            num_key_value_heads=4,
            head_dim=config.text_width // 4,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            max_position_embeddings=512,
        )
    )


def build_pipeline(config: TinySanaConfig):
    """A fresh `SanaPipeline` with weights from `config.seed`."""
    import torch
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaPipeline, SanaTransformer2DModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        tokenizer = build_tokenizer()
        channels, stages = config.vae_channels, len(config.vae_channels)
        return SanaPipeline(
            tokenizer=tokenizer,
            text_encoder=build_text_encoder(config, tokenizer),
            vae=AutoencoderDC(
                latent_channels=config.latent_channels,
                attention_head_dim=8,
                encoder_block_out_channels=channels,
                decoder_block_out_channels=channels,
                encoder_layers_per_block=(0, *(1,) * (stages - 1)),
                decoder_layers_per_block=(0, *(1,) * (stages - 1)),
                encoder_qkv_multiscales=((),) * stages,
                decoder_qkv_multiscales=((),) * stages,
            ),
            transformer=SanaTransformer2DModel(
                in_channels=config.latent_channels,
                out_channels=config.latent_channels,
                num_layers=config.layers,
                num_attention_heads=config.heads,
                attention_head_dim=config.width // config.heads,
                num_cross_attention_heads=config.heads,
                cross_attention_head_dim=config.width // config.heads,
                cross_attention_dim=config.width,
                caption_channels=config.text_width,
                sample_size=SIZE // 2 ** (stages - 1),
                patch_size=config.patch,
                interpolation_scale=1,
            ),
            # SANA's own checkpoints carry either scheduler; the hint names one.
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),  # pyright: ignore[reportArgumentType]
        )
