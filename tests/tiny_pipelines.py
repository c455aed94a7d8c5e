"""Stock pipelines of tiny size with random weights, for backbones that have no model of an embedded world.

Built from configuration alone: tokenizers spell words in letters or bytes, nothing is downloaded. Images are 16 px,
latents 4 x 8 x 8.
"""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch

RESOLUTION = 16
LATENT_CHANNELS = 4
TEXT_WIDTH = 32
CLIP_WIDTH = 12
"""Two side by side are narrower than the text, as in the real SD3."""
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def scheduler() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(shift=1.0)


def autoencoder() -> Any:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=4,
        sample_size=RESOLUTION,
        scaling_factor=0.4,
        shift_factor=0.1,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def clip(projection: bool) -> tuple[Any, Any]:
    """A CLIP text encoder and its tokenizer of 77 tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    letters = string.ascii_lowercase + string.digits + string.punctuation
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=77)
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=CLIP_WIDTH,
        intermediate_size=CLIP_WIDTH,
        projection_dim=CLIP_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config), tokenizer


def t5() -> tuple[Any, Any]:
    """A T5 encoder and its tokenizer."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    letters = string.ascii_letters + string.digits + string.punctuation
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), *((letter, -3.0) for letter in letters)]
    config = T5Config(vocab_size=len(vocab), d_model=TEXT_WIDTH, d_kv=8, d_ff=TEXT_WIDTH, num_layers=1, num_heads=2)
    return T5EncoderModel(config), T5Tokenizer(vocab=vocab, extra_ids=0)


def qwen3() -> tuple[Any, Any]:
    """A Qwen3 language model without head, and its byte-level tokenizer with a chat template."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3Model

    words = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet())]
    tokenizer = Qwen2Tokenizer(
        vocab={word: i for i, word in enumerate(words)},
        merges=[],
        additional_special_tokens=words[1:3],
        chat_template=CHAT,
    )
    config = Qwen3Config(
        vocab_size=len(words),
        hidden_size=TEXT_WIDTH,
        intermediate_size=TEXT_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    return Qwen3Model(config), tokenizer


def build_zimage() -> Any:
    from diffusers import ZImagePipeline, ZImageTransformer2DModel

    encoder, tokenizer = qwen3()
    return ZImagePipeline(
        scheduler=scheduler(),
        vae=autoencoder(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=ZImageTransformer2DModel(
            in_channels=LATENT_CHANNELS,
            dim=32,
            n_layers=1,
            n_refiner_layers=1,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=TEXT_WIDTH,
            axes_dims=[4, 6, 6],
            axes_lens=[256, 16, 16],
        ),
    )


def build_flux(guidance_embeds: bool = False) -> Any:
    from diffusers import FluxPipeline, FluxTransformer2DModel

    (text_encoder, tokenizer), (text_encoder_2, tokenizer_2) = clip(projection=False), t5()
    return FluxPipeline(
        scheduler=scheduler(),
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=FluxTransformer2DModel(
            in_channels=4 * LATENT_CHANNELS,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=TEXT_WIDTH,
            pooled_projection_dim=CLIP_WIDTH,
            guidance_embeds=guidance_embeds,
            axes_dims_rope=(4, 6, 6),
        ),
    )


def build_sd3() -> Any:
    from diffusers import SD3Transformer2DModel, StableDiffusion3Pipeline

    (text_encoder, tokenizer), (text_encoder_2, tokenizer_2) = clip(projection=True), clip(projection=True)
    text_encoder_3, tokenizer_3 = t5()
    return StableDiffusion3Pipeline(
        scheduler=scheduler(),
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
        transformer=SD3Transformer2DModel(
            sample_size=8,
            in_channels=LATENT_CHANNELS,
            out_channels=LATENT_CHANNELS,
            num_layers=2,
            attention_head_dim=8,
            num_attention_heads=4,
            joint_attention_dim=TEXT_WIDTH,
            caption_projection_dim=32,
            pooled_projection_dim=2 * CLIP_WIDTH,
            pos_embed_max_size=8,
            dual_attention_layers=(0,),
            qk_norm="rms_norm",
        ),
    )


def unet(**options: Any) -> Any:
    """The network of SDXL; `time_cond_proj_dim`: with an embedding of guidance, as LCM has it."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4),
        transformer_layers_per_block=(1, 1),
        use_linear_projection=True,
        cross_attention_dim=2 * CLIP_WIDTH,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + CLIP_WIDTH,
        **options,
    )


def build_sdxl() -> Any:
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline

    (text_encoder, tokenizer), (text_encoder_2, tokenizer_2) = clip(projection=False), clip(projection=True)
    return StableDiffusionXLPipeline(
        scheduler=EulerDiscreteScheduler(timestep_spacing="trailing"),
        vae=autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        unet=unet(),
        add_watermarker=False,
    )


def build_pixart() -> Any:
    from diffusers import LCMScheduler, PixArtAlphaPipeline, PixArtTransformer2DModel

    encoder, tokenizer = t5()
    return PixArtAlphaPipeline(
        scheduler=LCMScheduler(),
        vae=autoencoder(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=PixArtTransformer2DModel(
            sample_size=8,
            in_channels=LATENT_CHANNELS,
            out_channels=2 * LATENT_CHANNELS,
            num_layers=1,
            num_attention_heads=2,
            attention_head_dim=8,
            cross_attention_dim=16,
            caption_channels=TEXT_WIDTH,
            use_additional_conditions=False,
        ),
    )


def build_sana_sprint() -> Any:
    from diffusers import SanaSprintPipeline, SanaTransformer2DModel, SCMScheduler

    from apex_cli.worlds.shapes.pipeline import TinySanaConfig, build_pipeline

    small = TinySanaConfig(width=32, layers=1, heads=2, text_width=32, text_layers=1, vae_channels=(8, 8, 8, 16))
    parts = dict(build_pipeline(small).components)
    config = {key: value for key, value in parts.pop("transformer").config.items() if not key.startswith("_")}
    # Not `from_config`: it lets no key be changed that had its default.
    transformer = SanaTransformer2DModel(**config | {"guidance_embeds": True, "guidance_embeds_scale": 0.1})
    parts.pop("scheduler")
    return SanaSprintPipeline(**parts, transformer=transformer, scheduler=SCMScheduler())


def build_qwen_image() -> Any:
    from apex_cli.worlds.shapes.qwen_pipeline import TinyQwenConfig, build_qwen_pipeline

    return build_qwen_pipeline(TinyQwenConfig())


BUILDERS = {
    "zimage": build_zimage,
    "flux": build_flux,
    "sd3": build_sd3,
}
"""Backbones without a model of an embedded world."""
BASELINES = {
    "sdxl": build_sdxl,
    "pixart": build_pixart,
    "sana_sprint": build_sana_sprint,
    "qwen_image": build_qwen_image,
}


def write(name: str, folder: Path, **options: Any) -> Path:
    """A saved pipeline of one kind, in `folder`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        (BUILDERS | BASELINES)[name](**options).save_pretrained(folder)
    return folder
