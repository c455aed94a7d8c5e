"""Every key of a file for ComfyUI has a place there, and all updates at their places are those of the run.

The places are stated in comfyui_rules.py. What is put there is read by diffusers' own converters of the original
releases, whose names ComfyUI's networks have; they know nothing of LoRA or of our rules.
"""

from __future__ import annotations

import inspect
from collections import defaultdict
from typing import Any

import comfyui_rules
import pytest
import tiny_pipelines
import torch
from diffusers.loaders import single_file_utils
from safetensors.torch import load_file
from torch import Tensor

from apex_cli.backbones.flux import Flux, FluxConfig
from apex_cli.backbones.qwen_image import QwenImage, QwenImageConfig
from apex_cli.backbones.sd3 import Sd3, Sd3Config
from apex_cli.backbones.zimage import ZImage, ZImageConfig
from apex_cli.exporting import comfyui
from apex_cli.training import lora
from apex_cli.training.settings import LoraSettings

WIDTH = 32
QWEN = {"width": WIDTH, "layers": 2, "heads": 2, "text_width": 32, "text_layers": 1, "vae_width": 4}
KINDS = {"flux": (Flux, FluxConfig), "sd3": (Sd3, Sd3Config), "zimage": (ZImage, ZImageConfig)}


@pytest.fixture(scope="module", params=["flux", "qwen_image", "sd3", "zimage"])
def model(request, tmp_path_factory) -> Any:
    """A tiny backbone whose every linear layer is adapted, as if trained; alpha is not the rank."""
    if request.param == "qwen_image":
        made: Any = QwenImage(QwenImageConfig(tiny=QWEN))
    else:
        kind, config = KINDS[request.param]
        path = tiny_pipelines.write(request.param, tmp_path_factory.mktemp(request.param))
        made = kind(config(path=str(path), resolution=tiny_pipelines.RESOLUTION, max_tokens=64))
    linear = [name for name, part in made.network.named_modules() if isinstance(part, torch.nn.Linear)]
    lora.add(made.network, LoraSettings(rank=2, alpha=3.0, targets=tuple(linear)), made.lora_targets, seed=0)
    gen = torch.Generator().manual_seed(0)
    for name, value in made.network.named_parameters():
        if "lora_B" in name:
            value.data.normal_(generator=gen)
    return made


@pytest.fixture
def tensors(model, tmp_path) -> dict[str, Tensor]:
    """The file."""
    comfyui.save(model.network, tmp_path / "lora.safetensors", torch.float32)
    return load_file(tmp_path / "lora.safetensors")


def placed(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """ComfyUI's weights if they were zero and the file were loaded at strength 1."""
    layers = len(getattr(model.network, "transformer_blocks", ()))
    rows: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for stem in {key.rpartition(".lora_")[0] for key in tensors} - {""}:
        b, a, alpha = (tensors[f"{stem}.{part}"] for part in ("lora_B.weight", "lora_A.weight", "alpha"))
        update = float(alpha) / len(a) * (b @ a)
        place = comfyui_rules.place(model.pipeline_class, stem, layers)
        assert place is not None, f"{stem} is not loaded"
        assert place.order not in rows[place.weight], f"{stem} is not alone"
        rows[place.weight][place.order] = torch.cat(update.chunk(2)[::-1]) if place.swapped else update
    assert all(sorted(parts) == list(range(len(parts))) for parts in rows.values())
    return {f"{name}.weight": torch.cat([parts[i] for i in sorted(parts)]) for name, parts in rows.items()}


class Biased(dict):
    """A checkpoint in which a bias, and a weight that no LoRA touches, is zero."""

    def __init__(self, weights: dict[str, Tensor]):
        biases = {key.removesuffix("weight") + "bias": torch.zeros(len(value)) for key, value in weights.items()}
        super().__init__(weights | biases)

    def pop(self, key: str) -> Tensor:
        return super().pop(key, torch.zeros(1))


def original_to_diffusers(model: Any, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    if model.pipeline_class == "QwenImagePipeline":
        return weights  # the release has diffusers' names
    if model.pipeline_class == "ZImagePipeline":
        return single_file_utils.convert_z_image_transformer_checkpoint_to_diffusers(dict(weights))
    if model.pipeline_class == "StableDiffusion3Pipeline":
        return single_file_utils.convert_sd3_transformer_checkpoint_to_diffusers(Biased(weights))
    source = inspect.getsource(single_file_utils.convert_flux_transformer_checkpoint_to_diffusers)
    assert "inner_dim = 3072" in source
    scope = dict(vars(single_file_utils))
    exec(source.replace("inner_dim = 3072", f"inner_dim = {WIDTH}"), scope)
    return scope["convert_flux_transformer_checkpoint_to_diffusers"](Biased(weights))


def test_every_update_arrives_where_the_run_has_it(model, tensors):
    converted = original_to_diffusers(model, placed(model, tensors))
    adapted = dict(comfyui.adapted(model.network))
    for name, layer in adapted.items():
        update = layer.get_delta_weight(lora.ADAPTER).detach()
        torch.testing.assert_close(converted[f"{name}.weight"], update, atol=1e-5, rtol=1e-5, msg=name)
    assert len(tensors) == 3 * len(adapted)


def test_another_place_is_noticed(model, tensors):
    """The converters tell q from k, and one block from another."""
    q, k = (f".to_{letter}." for letter in "qk")
    swapped = {key.replace(q, "?").replace(k, q).replace("?", k): value for key, value in tensors.items()}
    converted = original_to_diffusers(model, placed(model, swapped))
    updates = {name: layer.get_delta_weight(lora.ADAPTER) for name, layer in comfyui.adapted(model.network)}
    differ = {name for name, update in updates.items() if not torch.allclose(converted[f"{name}.weight"], update)}
    assert {name.rpartition(".")[2] for name in differ} == {"to_q", "to_k"}


def test_the_classes_with_rules_are_those_that_the_card_names():
    assert comfyui_rules.RULES.keys() == comfyui.READ_FOR
