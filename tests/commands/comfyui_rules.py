"""Where ComfyUI puts the update of a LoRA key, stated from reading it; ComfyUI itself is not here and was not run.

Read were, of github.com/comfyanonymous/ComfyUI (now Comfy-Org), comfy/lora.py at commit 17358c8, comfy/lora_convert.py
at 2bffe2f (it changes none of our keys), comfy/utils.py at 09708ea, comfy/weight_adapter/lora.py at 6f98b15 and
comfy/ldm/qwen_image/model.py at 01f4512. It knows a key by `transformer.` and the name of the module in diffusers. Its
own networks have the names of the original releases: in these q, k and v (and in FLUX's single blocks the first layer
of the MLP) are rows of one matrix, and a last modulation has shift before scale, where diffusers has scale before
shift. Its Qwen-Image has the names of diffusers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

PREFIX = "transformer."
QKV = ("q", "k", "v")


@dataclass(frozen=True)
class Place:
    """Rows of one of ComfyUI's weights: `order` counts those that share it. `swapped`: its halves change places."""

    weight: str
    order: int = 0
    swapped: bool = False


def fused(module: str, weights: dict[str, str]) -> Place | None:
    """One of q, k and v; `weights`: diffusers' pattern of the three to the one weight."""
    for pattern, weight in weights.items():
        for order, letter in enumerate(QKV):
            if module == pattern.replace("*", letter):
                return Place(weight, order)
    return None


def flux(module: str) -> Place | None:
    double, single = (re.fullmatch(rf"{kind}transformer_blocks\.(\d+)\.(.+)", module) for kind in ("", "single_"))
    if double:
        place = fused(double[2], {"attn.to_*": "img_attn.qkv", "attn.add_*_proj": "txt_attn.qkv"}) or named(
            double[2],
            {
                "attn.to_out.0": "img_attn.proj", "attn.to_add_out": "txt_attn.proj",
                "norm1.linear": "img_mod.lin", "norm1_context.linear": "txt_mod.lin",
                "ff.net.0.proj": "img_mlp.0", "ff.net.2": "img_mlp.2",
                "ff_context.net.0.proj": "txt_mlp.0", "ff_context.net.2": "txt_mlp.2",
            },
        )  # fmt: skip
        return within(f"double_blocks.{double[1]}.", place)
    if single:
        place = fused(single[2], {"attn.to_*": "linear1"}) or named(
            single[2], {"norm.linear": "modulation.lin", "proj_out": "linear2"}
        )
        return within(f"single_blocks.{single[1]}.", Place("linear1", 3) if single[2] == "proj_mlp" else place)
    if module == "norm_out.linear":
        return Place("final_layer.adaLN_modulation.1", swapped=True)
    ends = {"x_embedder": "img_in", "context_embedder": "txt_in", "proj_out": "final_layer.linear"}
    return named(module, ends) or embedded(module, "{}_in.{}_layer", ("in", "out"), ("time", "vector", "guidance"))


def sd3(module: str, layers: int) -> Place | None:
    block = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", module)
    if block:
        streams = {"attn.to_*": "x_block.attn.qkv", "attn2.to_*": "x_block.attn2.qkv",
                   "attn.add_*_proj": "context_block.attn.qkv"}  # fmt: skip
        place = fused(block[2], streams) or named(
            block[2],
            {
                "attn.to_out.0": "x_block.attn.proj", "attn2.to_out.0": "x_block.attn2.proj",
                "attn.to_add_out": "context_block.attn.proj",
                "norm1.linear": "x_block.adaLN_modulation.1",
                "norm1_context.linear": "context_block.adaLN_modulation.1",
                "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2",
                "ff_context.net.0.proj": "context_block.mlp.fc1", "ff_context.net.2": "context_block.mlp.fc2",
            },
        )  # fmt: skip
        if block[2] == "norm1_context.linear" and int(block[1]) == layers - 1:
            place = Place("context_block.adaLN_modulation.1", swapped=True)
        return within(f"joint_blocks.{block[1]}.", place)
    if module == "norm_out.linear":
        return Place("final_layer.adaLN_modulation.1", swapped=True)
    ends = {"context_embedder": "context_embedder", "proj_out": "final_layer.linear"}
    return named(module, ends) or embedded(module, "{}_embedder.mlp.{}", ("0", "2"), ("t", "y", ""))


def zimage(module: str) -> Place | None:
    block = re.fullmatch(r"((?:layers|context_refiner|noise_refiner)\.\d+\.)(.+)", module)
    if block:
        kept = ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0")
        place = fused(block[2], {"attention.to_*": "attention.qkv"}) or named(
            block[2], {"attention.to_out.0": "attention.out"} | {name: name for name in kept}
        )
        return within(block[1], place)
    grouped = re.fullmatch(r"all_(x_embedder|final_layer)\.2-1(\..+)?", module)
    if grouped:
        return Place(grouped[1] + (grouped[2] or ""))
    return named(module, {name: name for name in ("cap_embedder.1", "t_embedder.mlp.0", "t_embedder.mlp.2")})


def qwen_image(module: str) -> Place | None:
    block = re.fullmatch(r"transformer_blocks\.\d+\.(.+)", module)
    attention = [f"to_{letter}" for letter in QKV] + [f"add_{letter}_proj" for letter in QKV]
    inside = [f"attn.{name}" for name in (*attention, "to_out.0", "to_add_out")]
    inside += [f"{stream}_{name}" for stream in ("img", "txt") for name in ("mod.1", "mlp.net.0.proj", "mlp.net.2")]
    ends = [f"time_text_embed.timestep_embedder.linear_{i}" for i in (1, 2)]
    ends += ["img_in", "txt_in", "norm_out.linear", "proj_out"]
    return Place(module) if (block and block[1] in inside) or module in ends else None


def named(module: str, names: dict[str, str]) -> Place | None:
    return Place(names[module]) if module in names else None


def within(prefix: str, place: Place | None) -> Place | None:
    return place and Place(prefix + place.weight, place.order, place.swapped)


def embedded(module: str, pattern: str, layers: tuple[str, str], inputs: tuple[str, str, str]) -> Place | None:
    """The two layers that embed the time, the pooled prompt or the guidance."""
    names = ("timestep", "text", "guidance")
    found = re.fullmatch(r"time_text_embed\.(\w+)_embedder\.linear_(\d)", module)
    if not found or not (where := inputs[names.index(found[1])]):
        return None
    return Place(pattern.format(where, layers[int(found[2]) - 1]))


RULES = {
    "FluxPipeline": lambda module, layers: flux(module),
    "QwenImagePipeline": lambda module, layers: qwen_image(module),
    "StableDiffusion3Pipeline": sd3,
    "ZImagePipeline": lambda module, layers: zimage(module),
}
"""By pipeline class: (module, number of joint blocks) to its place. There are none for SANA."""


def place(pipeline_class: str, key: str, layers: int) -> Place | None:
    """Where the update of `key`, a key of a file without its last part, goes; None: ComfyUI would not load it."""
    return RULES[pipeline_class](key.removeprefix(PREFIX), layers) if key.startswith(PREFIX) else None
