"""The fast path where it is meant to run: recorded kernels, streams and compiled blocks against the plain backbone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from apex_cli.backbones.fast.twin import TWINS, make
from apex_cli.generation import Request, SampleConfig, generate
from apex_cli.streaming import stream

TIMES = (1.0, 0.6)
CLOSE = {"atol": 1e-3, "rtol": 1e-3}
"""Kernels of other shapes add up in another order."""
pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _exact(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    with torch.no_grad():
        yield


def on_cuda(build, name, **config):
    """(plain backbone, its twin) on the device."""
    plain = build(name, **config)
    plain.to(torch.device("cuda"))
    return plain, make(name, plain, TIMES)


@pytest.mark.parametrize("name", TWINS)
def test_recorded_kernels_answer_as_the_plain_backbone(build, name):
    plain, twin = on_cuda(build, name)
    twin.make_static()
    noise, t = torch.randn(3, *plain.latent_shape, device="cuda"), torch.tensor([1.0, 0.6, 1.0], device="cuda")
    for prompts in (["a red cube", "two blue stars", "a ring"], ["a photo of a green heart above a cross", "", "a"]):
        expected = plain.velocity(noise, t, plain.encode_prompts(prompts))
        for _ in range(2):  # recorded, replayed
            found = twin.velocity(noise, t, twin.encode_prompts(prompts))
            torch.testing.assert_close(found, expected, **CLOSE)
            torch.testing.assert_close(twin.decode(found), plain.decode(expected), **CLOSE)


@pytest.mark.parametrize("name", TWINS)
def test_stages_on_streams_of_their_own_draw_the_same_pictures(build, name):
    plain, twin = on_cuda(build, name)
    twin.make_static()
    requests = [Request(f"{n} red cubes", seed) for n in ("two", "three", "four") for seed in range(7)]
    config = SampleConfig(nfe=2)
    expected, found = generate(plain, config, requests, 4), stream(twin, config, requests, 4)
    for a, b in zip(expected, found, strict=True):
        assert a.request == b.request
        assert np.abs(a.pixels.astype(int) - b.pixels.astype(int)).max() <= 1


@pytest.mark.parametrize("name", ["qwen_image", "sana"])
def test_bf16_differs_by_its_own_rounding_only(build, name):
    plain, twin = on_cuda(build, name, dtype="bf16")
    twin.make_static()
    requests = [Request("a photo of a red cube", seed) for seed in range(3)]
    pairs = zip(generate(plain, SampleConfig(), requests), generate(twin, SampleConfig(), requests), strict=True)
    for a, b in pairs:
        error = (plain.decode(a.latent[None].cuda()) - twin.decode(b.latent[None].cuda())) / 2
        assert -10 * error.square().mean().log10() >= 40


@pytest.mark.parametrize("name", ["qwen_image", "sana"])
def test_compiled_blocks_answer_as_the_plain_ones(build, name):
    plain, twin = on_cuda(build, name)
    compiled = twin.again()
    compiled.compile()
    compiled.make_static()
    noise, t = torch.randn(2, *plain.latent_shape, device="cuda"), torch.ones(2, device="cuda")
    cond = plain.encode_prompts(["a red cube", "two blue stars"])
    torch.testing.assert_close(compiled.velocity(noise, t, cond), plain.velocity(noise, t, cond), **CLOSE)
