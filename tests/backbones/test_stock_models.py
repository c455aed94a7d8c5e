"""Z-Image, FLUX and SD3, which have no model of an embedded world: prompts, latents, plans and their own."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import tiny_pipelines
import torch

from apex_cli.backbones.flux import Flux, FluxConfig
from apex_cli.errors import UsageError
from apex_cli.flow.condition_shift import ConditionShift, ConditionShiftConfig
from apex_cli.objectives.fm import FlowMatching, FlowMatchingConfig
from apex_cli.training.cost import Bench
from apex_cli.training.settings import TrainConfig

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SIGMAS = (1.0, 0.8, 0.3, 0.0)
PROMPTS = ["a red cube", "a photo of two blue spheres and a green star"]
LONG = ["a red cube and " * 40]
"""Longer than CLIP's 77 tokens and than `max_tokens`."""


@pytest.fixture(params=tiny_pipelines.BUILDERS)
def case(request, cases):
    return cases(request.param)


@pytest.fixture(params=["flux", "sd3"])
def padded(request, cases):
    """A case that attends to the padding of its prompts."""
    return cases(request.param)


def linear_layers(module) -> int:
    return sum(isinstance(part, torch.nn.Linear) for part in module.modules())


@torch.no_grad()
def test_latents_are_shifted_and_scaled(case):
    side, autoencoder = case.model.config.resolution, case.model.autoencoder
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1
    raw = autoencoder.encode(images).latent_dist.mode()
    latents = case.model.encode_images(images)
    assert autoencoder.config.shift_factor and autoencoder.config.scaling_factor != 1
    torch.testing.assert_close(latents, (raw - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor)
    torch.testing.assert_close(case.model.decode(latents), autoencoder.decode(raw).sample, **CLOSE)


def test_planned_without_weights(case):
    """All text encoders count, and a prompt too long for any of them is no obstacle."""
    with torch.device("meta"):
        skeleton = type(case.model)(case.model.config)
    objective = FlowMatching(FlowMatchingConfig())
    bench = Bench(skeleton, objective, TrainConfig(steps=1), [*PROMPTS[:1], *LONG], 2)
    assert bench.cost(objective).total > 2 * bench.forward(objective)
    assert bench.prompt()[0] == case.model.encode_prompts(LONG).tokens.shape[1]
    encoders = [module for key, module in case.model.pipeline.components.items() if key.startswith("text_encoder")]
    assert linear_layers(bench.modules["text_encoder"]) == sum(map(linear_layers, encoders))


# ---- FLUX and SD3: CLIP, T5 and their padding ------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [[*PROMPTS, ""], LONG], ids=["short", "cut"])
@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_does(padded, prompts):
    model = padded.model
    others = {"prompt_2": None, **({"prompt_3": None} if padded.name == "sd3" else {})}
    made = model.pipeline.encode_prompt(prompts, **others, max_sequence_length=model.config.max_tokens)
    tokens, pooled = (made[0], made[2]) if padded.name == "sd3" else made[:2]
    cond = model.encode_prompts(prompts)
    torch.testing.assert_close(cond.tokens, tokens, **CLOSE)
    torch.testing.assert_close(cond.pooled, pooled, **CLOSE)


@torch.no_grad()
def test_the_shift_acts_on_every_position_and_on_the_pooled_vector(padded):
    model = padded.model
    cond = model.encode_prompts(PROMPTS)
    fake = ConditionShift(ConditionShiftConfig(a=-0.5, b=1.0), model.cond_dim, model.pooled_dim)(cond)
    assert cond.mask.all()
    torch.testing.assert_close(fake.tokens, 1 - 0.5 * cond.tokens)
    torch.testing.assert_close(fake.pooled, 1 - 0.5 * cond.pooled)


# ---- Z-Image ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompts", [[*PROMPTS, ""], LONG], ids=["short", "cut"])
@torch.no_grad()
def test_zimage_prompts_are_rows_without_padding(cases, prompts):
    model = cases("zimage").model
    rows, _ = model.pipeline.encode_prompt(list(prompts), max_sequence_length=model.config.max_tokens)
    cond = model.encode_prompts(prompts)
    assert cond.mask.sum(1).tolist() == [len(row) for row in rows]
    torch.testing.assert_close(cond.tokens[cond.mask], torch.cat(rows), **CLOSE)


@torch.no_grad()
def test_zimage_does_not_see_a_positive_scale(cases):
    """The text passes an RMSNorm first: of a scaled prompt only the sign is left."""
    case = cases("zimage")
    cond = case.model.encode_prompts(case.prompts)
    cond = replace(cond, tokens=cond.tokens / cond.tokens.std())  # far above the epsilon of the norm
    assert case.model.scale_invariant_text

    def shifted(a: float, b: float) -> torch.Tensor:
        shift = ConditionShift(ConditionShiftConfig(a=a, b=b), case.model.cond_dim)
        return case.model.velocity(*case.inputs(), shift(cond))

    torch.testing.assert_close(shifted(0.5, 0.0), shifted(1.0, 0.0), atol=1e-4, rtol=1e-4)
    assert (shifted(-0.5, 1.0) - shifted(1.0, 0.0)).abs().max() > 1e-2


# ---- FLUX ------------------------------------------------------------------------------------------------------


@pytest.fixture
def flux_dev(tmp_path) -> FluxConfig:
    """The configuration of a pipeline whose network takes a guidance."""
    path = tiny_pipelines.write("flux", tmp_path, guidance_embeds=True)
    return FluxConfig(path=str(path), resolution=tiny_pipelines.RESOLUTION, max_tokens=64, embedded_guidance=3.5)


@torch.no_grad()
def test_embedded_guidance_is_that_of_the_stock_pipeline(flux_dev, cases):
    case = replace(cases("flux"), model=Flux(flux_dev))
    noise, _ = case.inputs()
    found = case.euler(noise, SIGMAS)
    torch.testing.assert_close(found, case.stock(noise, SIGMAS, guidance_scale=3.5), **CLOSE)
    assert not torch.allclose(found, case.stock(noise, SIGMAS, guidance_scale=1.0), **CLOSE)


def test_embedded_guidance_where_it_belongs_and_nowhere_else(flux_dev, cases):
    with pytest.raises(UsageError, match="needs an embedded guidance"):
        Flux(flux_dev.model_copy(update={"embedded_guidance": None}))
    with pytest.raises(UsageError, match="takes no embedded guidance"):
        Flux(cases("flux").model.config.model_copy(update={"embedded_guidance": 3.5}))


@torch.no_grad()
def test_flux_tells_times_apart_that_bf16_cannot(cases):
    case, t = cases("flux"), torch.tensor([0.999, 1.0])
    assert t.bfloat16().unique().numel() == 1
    half = copy.copy(case.model)
    half.network = copy.deepcopy(case.model.network).to(torch.bfloat16)
    x_t = case.inputs(1)[0].expand(2, -1, -1, -1)
    cond = half.encode_prompts(PROMPTS[:1]).expand(2)
    with torch.autocast("cpu", torch.bfloat16):
        near, far = case.model.velocity(x_t, t, cond)
    assert not torch.equal(near, far)
    near, far = half.velocity(x_t.bfloat16(), t, cond.to("cpu", torch.bfloat16))
    assert not torch.equal(near, far)
    assert not half.network.time_text_embed._forward_pre_hooks
