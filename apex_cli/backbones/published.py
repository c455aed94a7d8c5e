"""The published models by their sizes alone: every module from its configuration, with fresh weights, wherever the
default device says. On the meta device they can be counted and planned; on an accelerator, with random weights, timed:
dense kernels take as long for random values as for trained ones.

The tokenizers are those of the embedded world, in which every word of it and of the pipelines' own instructions is one
token, as nearly all are for the real ones.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from apex_cli.backbones.qwen_image import QwenImage, QwenImageConfig
from apex_cli.backbones.sana import Sana, SanaConfig
from apex_cli.errors import UsageError
from apex_cli.worlds.shapes.pipeline import build_tokenizer
from apex_cli.worlds.shapes.qwen_pipeline import build_qwen_tokenizer

SANA_600M = {
    "num_attention_heads": 36, "attention_head_dim": 32, "num_layers": 28, "num_cross_attention_heads": 16,
    "cross_attention_head_dim": 72, "cross_attention_dim": 1152,
}  # fmt: skip
"""What differs from the class's defaults, which are those of SANA 1.6B."""
QWEN_TEXT = {
    "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28, "num_attention_heads": 28,
    "num_key_value_heads": 4, "vocab_size": 152064,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
QWEN_VISION = {
    "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
    "fullatt_block_indexes": [7, 15, 23, 31],
}  # fmt: skip
STD = 0.02
"""Standard deviation of random weights. Not zeros: a card draws less power on them and runs faster."""


def qwen_image() -> Any:
    """A `QwenImagePipeline` of 20.43 B parameters of transformer, 8.29 B of text encoder, 0.13 B of autoencoder."""
    from diffusers import AutoencoderKLQwenImage, FlowMatchEulerDiscreteScheduler, QwenImageTransformer2DModel
    from diffusers import QwenImagePipeline as Pipeline
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(text_config=QWEN_TEXT, vision_config=QWEN_VISION, tie_word_embeddings=False)
    bare: dict[str, Any] = dict.fromkeys(("vae", "tokenizer", "text_encoder", "transformer"))
    pipeline = Pipeline(scheduler=FlowMatchEulerDiscreteScheduler(), **bare)
    pipeline.register_modules(
        tokenizer=build_qwen_tokenizer(pipeline.prompt_template_encode),
        text_encoder=Qwen2_5_VLForConditionalGeneration._from_config(config),
        transformer=QwenImageTransformer2DModel(),
        vae=AutoencoderKLQwenImage(),
    )
    return pipeline


def sana(changes: dict[str, Any]) -> Any:
    """A `SanaPipeline` with Gemma-2-2B and the DC-AE of 32 channels; `changes` to the transformer of 1.6 B."""
    from diffusers import AutoencoderDC, FlowMatchEulerDiscreteScheduler, SanaTransformer2DModel
    from diffusers import SanaPipeline as Pipeline
    from transformers import Gemma2Config, Gemma2Model

    vit: Any = ["ResBlock"] * 3 + ["EfficientViTBlock"] * 3
    instruction = inspect.signature(Pipeline.__call__).parameters["complex_human_instruction"].default
    return Pipeline(
        tokenizer=build_tokenizer(re.findall(r"[A-Za-z]+", " ".join(instruction))),
        text_encoder=Gemma2Model._from_config(Gemma2Config()),
        transformer=SanaTransformer2DModel(**changes, sample_size=16),
        vae=AutoencoderDC(
            encoder_block_types=vit, decoder_block_types=vit, downsample_block_type="conv",
            upsample_block_type="interpolate", scaling_factor=0.41407,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(),  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


@dataclass(frozen=True)
class Lengths:
    """Tokens of a request: the text encoder of the stock pipeline reads `written`, of which the first `prefix` are the
    same for every prompt and `prompt` are the prompt's; the transformer sees `seen`, padding included."""

    written: int
    prefix: int
    prompt: int
    seen: int


@dataclass(frozen=True)
class Published:
    """`build` makes the pipeline."""

    backbone: type[Any]
    config: Any
    build: Callable[[], Any]
    lengths: Lengths
    parameters: int
    """Of the transformer."""


SANA_LENGTHS = Lengths(written=500, prefix=205, prompt=64, seen=300)
"""With the stock pipeline's human instruction in front, padded to 300 tokens behind it."""
MODELS = {
    "qwen-image": Published(QwenImage, QwenImageConfig(), qwen_image, Lengths(98, 34, 64, 64), 20_430_401_088),
    "sana-600m": Published(Sana, SanaConfig(instruction=True), lambda: sana(SANA_600M), SANA_LENGTHS, 591_747_872),
    "sana-1600m": Published(Sana, SanaConfig(instruction=True), lambda: sana({}), SANA_LENGTHS, 1_604_462_752),
}
"""Name on the command line -> what it is. The second word of SANA's names says the parameters of its transformer."""


def load(name: str, device: str, resolution: int = 512) -> Any:
    """The backbone `name` in bf16 on `device` ("meta": without memory) with random weights, its autoencoder too."""
    if name not in MODELS:
        raise UsageError(f"There is no published model called '{name}'.", f"Known: {', '.join(MODELS)}.")
    model = MODELS[name]

    class Random(model.backbone):
        """The adapter over a pipeline of random weights."""

        @staticmethod
        def fresh(tiny: Any) -> Any:
            return model.build()

    Random.__name__ = model.backbone.__name__
    with torch.device(device), default_dtype(torch.bfloat16), torch.no_grad():
        made = Random(model.config.model_copy(update={"dtype": "bf16", "resolution": resolution}))
        for part in (made.network, made.text_encoder, made.autoencoder):
            for value in part.to(torch.bfloat16).parameters():
                if device != "meta":
                    value.normal_(std=STD)
    return made


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """New tensors, and so new weights, in `dtype`."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
