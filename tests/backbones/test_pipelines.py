"""Every backbone that wraps a diffusers pipeline, held against that pipeline."""

from __future__ import annotations

import copy

import diffusers
import numpy as np
import pytest
import torch

from apex_cli.generation import to_pixels

ONE_STEP, THREE_STEPS = (1.0, 0.0), (1.0, 0.8, 0.3, 0.0)
GUIDANCE_OF_3 = {
    "sana": {"guidance_scale": 3.0},
    "zimage": {"guidance_scale": 2.0},  # v_cond + 2 (v_cond - v_uncond)
    "flux": {"true_cfg_scale": 3.0, "negative_prompt": [""] * 3},
    "sd3": {"guidance_scale": 3.0},
    "qwen_image": {"true_cfg_scale": 3.0, "negative_prompt": [""] * 3},  # and rescaled to the length of v_cond
}
"""As the stock pipelines are asked for it."""


@pytest.mark.parametrize("sigmas", [ONE_STEP, THREE_STEPS], ids=["1 step", "3 steps"])
@torch.no_grad()
def test_euler_is_the_stock_pipeline(piped, sigmas):
    """Velocity convention, time argument, packing and masks all at once."""
    noise, _ = piped.inputs()
    torch.testing.assert_close(piped.euler(noise, sigmas), piped.stock(noise, sigmas), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", GUIDANCE_OF_3)
@torch.no_grad()
def test_guidance_is_that_of_the_stock_pipeline(cases, name):
    case = cases(name)
    noise, _ = case.inputs()
    found, expected = case.euler(noise, THREE_STEPS, 3.0), case.stock(noise, THREE_STEPS, **GUIDANCE_OF_3[name])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_negative_prompt_is_that_of_the_stock_pipeline(cases):
    case, negative = cases("qwen_image"), "a blurry ring"
    noise, _ = case.inputs()
    asked = {"true_cfg_scale": 4.0, "negative_prompt": [negative] * 3}
    found, expected = case.euler(noise, THREE_STEPS, 4.0, negative), case.stock(noise, THREE_STEPS, **asked)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - case.euler(noise, THREE_STEPS, 4.0)).abs().max() > 1e-3


@torch.no_grad()
def test_images_are_those_of_the_stock_pipeline(piped):
    noise, _ = piped.inputs()
    images = np.stack([np.asarray(image) for image in piped.stock(noise, ONE_STEP, "pil")])
    difference = np.abs(to_pixels(piped.model.decode(piped.euler(noise, ONE_STEP))).astype(int) - images)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3  # pixels at the edge of rounding


@torch.no_grad()
def test_the_saved_folder_is_an_ordinary_pipeline(piped, tmp_path):
    piped.model.save(tmp_path)
    again = getattr(diffusers, piped.model.pipeline_class).from_pretrained(tmp_path)
    noise, _ = piped.inputs()
    assert torch.equal(piped.stock(noise, ONE_STEP, pipeline=again), piped.stock(noise, ONE_STEP))


@torch.no_grad()
def test_weights_in_bf16(piped, build):
    """Only what is computed by them is rounded: x_t and the answer stay in fp32, the autoencoder too."""
    half = build(piped.name, dtype="bf16")
    assert {value.dtype for value in half.network.parameters()} == {torch.bfloat16}
    assert {value.dtype for value in half.autoencoder.parameters()} == {torch.float32}
    full = copy.copy(half)
    full.network = copy.deepcopy(half.network).float()
    x_t, t = piped.inputs()
    cond = half.encode_prompts(piped.prompts)
    found, expected = half.velocity(x_t, t, cond), full.velocity(x_t, t, cond)
    assert cond.tokens.dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 0.1 * expected.norm()
    assert half.decode(x_t).dtype == torch.float32
