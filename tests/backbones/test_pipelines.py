"""Every backbone that wraps a diffusers pipeline, held against that pipeline."""

from __future__ import annotations

import diffusers
import numpy as np
import pytest
import torch

from apex_cli.generation import to_pixels

ONE_STEP = (1.0, 0.0)


@pytest.mark.parametrize("sigmas", [ONE_STEP, (1.0, 0.8, 0.3, 0.0)], ids=["1 step", "3 steps"])
@torch.no_grad()
def test_euler_is_the_stock_pipeline(piped, sigmas):
    """Velocity convention, time argument, packing and masks all at once."""
    noise, _ = piped.inputs()
    torch.testing.assert_close(piped.euler(noise, sigmas), piped.stock(noise, sigmas), atol=1e-5, rtol=1e-5)


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
