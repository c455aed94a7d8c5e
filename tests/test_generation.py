"""Same seed, same image; the evaluations of the network are those that were asked for."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_runs import TINY

from apex_cli.backbones.sana import Sana, SanaConfig
from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond
from apex_cli.generation import Request, SampleConfig, generate, generator
from apex_cli.generation.grid import grid_picture
from apex_cli.registry import names


class Counted:
    """A backbone that counts the images it is asked for."""

    latent_shape = (3, 2, 2)
    patch = 1
    times = None

    def __init__(self):
        self.seen: dict[float, int] = {}

    def encode_prompts(self, prompts):
        return Cond(torch.zeros(len(prompts), 1, 1), torch.ones(len(prompts), 1, dtype=torch.bool))

    def velocity(self, x_t, t, cond):
        assert len(x_t) == len(t) == len(cond)
        for value in t.tolist():
            self.seen[value] = self.seen.get(value, 0) + 1
        return 0.1 * x_t

    def decode(self, latents):
        return latents


@pytest.fixture(scope="module")
def sana():
    return Sana(SanaConfig(tiny=TINY, max_tokens=64))


@pytest.mark.parametrize(
    "config", [SampleConfig(), SampleConfig(nfe=2), SampleConfig(sampler="euler", nfe=4, guidance=2)]
)
def test_same_image_at_any_batch_size(sana, config):
    prompts = ("a red cube", "a photo of three hearts", "a blue star left of a green ring", "")
    requests = [Request(prompt, seed, index) for index, (prompt, seed) in enumerate(product(prompts, range(4)))]
    expected, *others = (list(generate(sana, config, requests, batch)) for batch in (1, 3, 16))
    for made in others:
        for a, b in zip(expected, made, strict=True):
            assert a.request == b.request
            torch.testing.assert_close(a.latent, b.latent, atol=1e-5, rtol=1e-5)
            difference = np.abs(a.pixels.astype(int) - b.pixels)
            assert difference.max() <= 1
            assert (difference > 0).mean() < 1e-3  # pixels at the edge of rounding


def test_the_seed_and_the_index_matter(sana):
    requests = [Request("a red cube", 0, 0), Request("a red cube", 0, 1), Request("a red cube", 1, 0)]
    images = [made.pixels for made in generate(sana, SampleConfig(), requests)]
    assert not any(np.array_equal(a, b) for a, b in [images[:2], images[1:], images[::2]])


def test_generator_is_a_function_of_its_key():
    first, again, other = (torch.rand(3, generator=generator(*key)) for key in [(1, 2), (1, 2), (2, 1)])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("sampler", names("sampler"))
@pytest.mark.parametrize("guidance", [1.0, 0.0, 4.5])
@pytest.mark.parametrize("nfe", [1, 2, 3, 4, 5, 6, 8, 50])
def test_exactly_nfe_evaluations_are_spent(sampler, guidance, nfe):
    """Or the settings are refused with the number that would be spent."""
    twice = 1 if guidance == 1 else 2
    possible = nfe % twice == 0 and (sampler != "heun" or nfe // twice % 2 == 1)
    if not possible:
        with pytest.raises(ValidationError, match=rf"not nfe = {nfe}; set nfe = \d+"):
            SampleConfig(sampler=sampler, nfe=nfe, guidance=guidance)
        return
    config, backbone = SampleConfig(sampler=sampler, nfe=nfe, guidance=guidance), Counted()
    made = list(generate(backbone, config, [Request("", seed) for seed in range(3)], batch=2))
    assert [image.nfe for image in made] == [nfe] * 3
    assert sum(backbone.seen.values()) == 3 * nfe
    assert max(backbone.seen) == 1.0


def test_explicit_sigmas_are_used():
    backbone = Counted()
    list(generate(backbone, SampleConfig(sampler="euler", nfe=2, sigmas=(1.0, 0.5, 0.0)), [Request("")]))
    assert list(backbone.seen) == [1.0, 0.5]


@pytest.mark.parametrize("sigmas", [(), (0.0,), (1.5, 0.0), (1.0, 0.2), (0.2, 0.5, 0.0), (1.0, 0.5, 0.5, 0.0)])
def test_sigmas_that_cannot_be(sigmas):
    with pytest.raises(ValidationError):
        SampleConfig(nfe=max(1, len(sigmas) - 1), sigmas=sigmas)


def test_time_shift_keeps_the_ends():
    grid = SampleConfig(sampler="euler", nfe=4, time_shift=3.0).grid()
    assert grid[0] == 1
    assert grid[-1] == 0
    assert grid[2] == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("config", "nfe"), [(SampleConfig(), 0), (SampleConfig(sampler="euler", nfe=2, guidance=2), 3)]
)
def test_nfe_that_cannot_be(config, nfe):
    with pytest.raises(UsageError, match=f"{nfe}"):
        config.with_nfe(nfe)


@pytest.mark.parametrize("nfe", [4, None])
def test_settings_that_are_the_contracts_keep_its_noise_levels(nfe):
    contract = SampleConfig(nfe=4, sigmas=(1.0, 0.9, 0.5, 0.2, 0.0))
    assert contract.changed(nfe, "renoise", 1.0) is contract
    assert contract.with_nfe(2).grid() == (1.0, 0.6, 0.0)
    assert contract.changed(sampler="euler").grid() == (1.0, 0.75, 0.5, 0.25, 0.0)


@pytest.mark.parametrize("nfe", [2, 4])
def test_a_time_shift_that_would_move_nothing_is_refused(nfe):
    with pytest.raises(ValidationError, match="time_shift does not move"):
        SampleConfig(nfe=nfe, time_shift=3.0)
    with pytest.raises(UsageError, match=f"nfe = {nfe}: time_shift does not move"):
        SampleConfig(nfe=3, time_shift=3.0).with_nfe(nfe)
    assert SampleConfig(nfe=1, time_shift=3.0).grid() == (1.0, 0.0)  # no level in between
    assert SampleConfig(nfe=nfe, time_shift=3.0, sampler="euler").grid()[1] > 1 - 1 / nfe


@pytest.mark.parametrize("setting", [{"negative_prompt": "blurry"}, {"guidance_rescale": "patch"}], ids=str)
def test_what_is_for_guidance_alone_needs_it(setting):
    with pytest.raises(ValidationError, match=rf"{next(iter(setting))} changes nothing at guidance 1"):
        SampleConfig(**setting)
    guided = SampleConfig(sampler="euler", nfe=4, guidance=2, **setting)
    plain = SampleConfig(sampler="euler", nfe=4)
    assert guided.changed(guidance=1.0) == plain
    assert guided.with_nfe(1) == plain.with_nfe(1)


def test_one_evaluation_has_no_room_for_guidance():
    assert SampleConfig(sampler="euler", nfe=50, guidance=2).with_nfe(1) == SampleConfig(sampler="euler", nfe=1)


def test_the_caller_keeps_its_gradients():
    for _ in generate(Counted(), SampleConfig(), [Request(""), Request("")], batch=1):
        assert torch.is_grad_enabled()


def test_grid_picture():
    rows = [[np.full((2, 3, 3), value, np.uint8) for value in (0, 100)], [np.zeros((2, 3, 3), np.uint8)]]
    picture = np.asarray(grid_picture(rows, zoom=2, gap=1))
    assert picture.shape == (10, 14, 3)
    assert picture[0, 0, 0] == 0
    assert picture[0, 8, 0] == 100
    assert picture[-1, -1, 0] == 255
