"""An ordinary `QwenImagePipeline` of tiny size for the shapes world, built from configuration alone.

Real diffusers and transformers classes throughout: Qwen2Tokenizer with a word-level vocabulary, Qwen2.5-VL with a
vision tower that nobody asks, AutoencoderKLQwenImage, QwenImageTransformer2DModel, FlowMatchEulerDiscreteScheduler.
The weights are fresh; `apex train` trains them.
"""

from __future__ import annotations

import re

from apex_cli.config import Section
from apex_cli.worlds.shapes.pipeline import STARTERS, spell
from apex_cli.worlds.shapes.vocabulary import BACKGROUND, WORDS

ROLES = ("system", "user", "assistant")


class TinyQwenConfig(Section):
    """Sizes of the fresh pipeline: 2.5 M parameters of transformer. The autoencoder maps 64 px to
    `64 / 2**(len(vae_multipliers) - 1)` latent pixels."""

    width: int = 128
    layers: int = 4
    heads: int = 4
    latent_channels: int = 8
    vae_width: int = 8
    vae_multipliers: tuple[int, ...] = (1, 2, 4, 8)
    text_width: int = 128
    text_layers: int = 2
    seed: int = 0


def build_qwen_tokenizer(template: str):
    """A Qwen2Tokenizer whose merges spell every word of the world and of the chat `template` as one token, so that
    the template's head is the 34 tokens it is for the real tokenizer; other text is bytes."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import AddedToken, Qwen2Tokenizer

    vocab = {byte: number for number, byte in enumerate(sorted(ByteLevel.alphabet()))}
    instruction = re.findall(r"[A-Za-z]+", template.partition("\n")[2].partition("<|im_end|>")[0])
    spaced = [f"Ġ{word}" for word in (*instruction[1:], *WORDS)]
    merges = spell([*spaced, *ROLES, instruction[0], *sorted(STARTERS, key=len, reverse=True)], vocab)
    tokenizer = Qwen2Tokenizer(vocab=vocab, merges=merges)
    tokenizer.add_tokens([AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>")])
    return tokenizer


def build_qwen_text_encoder(config: TinyQwenConfig, tokenizer):
    """Qwen2.5-VL of `text_layers` layers; its last hidden state (RMS-normalised) is the prompt embedding."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    width, heads = config.text_width, 4
    bands = width // heads // 8
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": config.text_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 2048,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [width // heads // 2 - 2 * bands, bands, bands],
        },
        "bos_token_id": tokenizer.eos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "patch_size": 2,
        "out_hidden_size": width,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True)
    )


def build_qwen_transformer(config: TinyQwenConfig):
    """A `QwenImageTransformer2DModel` for latents in 2 x 2 patches, its rotary axes in the proportion 1 : 1.5 : 1.5."""
    from diffusers import QwenImageTransformer2DModel

    head = config.width // config.heads
    side = 2 * round(head * 3 / 16)
    return QwenImageTransformer2DModel(
        in_channels=4 * config.latent_channels,
        out_channels=config.latent_channels,
        num_layers=config.layers,
        num_attention_heads=config.heads,
        attention_head_dim=head,
        joint_attention_dim=config.text_width,
        axes_dims_rope=(head - 2 * side, side, side),
    )


def prepare_qwen_autoencoder(vae) -> None:
    """Weights from which an `AutoencoderKLQwenImage` of this size learns colours within some hundred steps.

    torch's own leave a third of the variance at each convolution; behind fifteen of them there are the biases and
    nothing else, and "something dark is here" is all that is ever coded. So each convolution keeps what passes (the
    last slice of a causal kernel is all that a single frame meets) and has no bias, but for the first, which tells
    white from grey behind a norm that drops the length, and the last, which starts at the background of the world.
    """
    import torch
    from torch import nn

    with torch.no_grad():
        for part in vae.modules():
            if isinstance(part, (nn.Conv2d, nn.Conv3d)):
                kernel = part.weight[:, :, -1] if isinstance(part, nn.Conv3d) else part.weight
                nn.init.kaiming_normal_(kernel, nonlinearity="linear")
                assert part.bias is not None
                nn.init.zeros_(part.bias)
        nn.init.normal_(vae.encoder.conv_in.bias)
        vae.decoder.conv_out.weight.mul_(0.1)
        vae.decoder.conv_out.bias.copy_(torch.tensor(BACKGROUND) / 127.5 - 1)


def build_qwen_pipeline(config: TinyQwenConfig):
    """A fresh `QwenImagePipeline` with weights from `config.seed`."""
    import torch
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImagePipeline

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        transformer = build_qwen_transformer(config)
        vae = AutoencoderKLQwenImage(
            base_dim=config.vae_width,
            z_dim=config.latent_channels,
            dim_mult=list(config.vae_multipliers),
            num_res_blocks=1,
            temperal_downsample=[False] * (len(config.vae_multipliers) - 1),  # there is no time to halve
            latents_mean=[0.0] * config.latent_channels,
            latents_std=[1.0] * config.latent_channels,
        )
        prepare_qwen_autoencoder(vae)
        pipeline = QwenImagePipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            vae=vae,
            text_encoder=None,  # pyright: ignore[reportArgumentType]  # its vocabulary needs the pipeline's template
            tokenizer=None,  # pyright: ignore[reportArgumentType]
            transformer=transformer,
        )
        tokenizer = build_qwen_tokenizer(pipeline.prompt_template_encode)
        pipeline.register_modules(tokenizer=tokenizer, text_encoder=build_qwen_text_encoder(config, tokenizer))
        return pipeline
