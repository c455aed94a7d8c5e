"""What a run reads does not depend on when, how often and by whom it was encoded."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from tiny_runs import APEX, DEFAULTS, TINY, apex, manifest, metrics, train, write_recipe

from apex_cli import registry
from apex_cli.data import latents, prompts
from apex_cli.data.latents import Blank, Latents
from apex_cli.data.pools import Pool
from apex_cli.data.prompts import Prompts
from apex_cli.data.shapes import ShapesConfig, ShapesData
from apex_cli.flow.condition import Cond
from apex_cli.training.inputs import Inputs

SECTIONS = {"objective": APEX | {"caption_dropout": 0.3}, "train": {"steps": 2, "batch": 8, "micro_batch": 3}}


@pytest.fixture
def empty(tmp_path, monkeypatch) -> Path:
    """An empty cache, with shards of 8 images and 3 prompts."""
    monkeypatch.setattr(latents, "IMAGES", 4)
    monkeypatch.setattr(latents, "ROWS", 8)
    monkeypatch.setattr(prompts, "ROWS", 3)
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "empty"))
    return tmp_path / "empty"


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    """What is encoded while the test runs; `encoded.cut` many encodings from now the power fails."""

    class Counted(list):
        cut = -1

    done = Counted()

    def counted(kind: type, name: str) -> None:
        encode = kind._encode

        def encode_one(self, what):
            if len(done) == done.cut:
                raise RuntimeError("power cut")
            done.append(name)
            return encode(self, what)

        monkeypatch.setattr(kind, "_encode", encode_one)

    counted(Latents, "image")
    counted(Prompts, "prompt")
    return done


def weights(run: Path) -> dict[str, str]:
    """Hashes of all tensors of the last checkpoint; its recipe carries the name of the run."""
    return {name: value for name, value in manifest(run, 2).items() if name.endswith(".safetensors")}


def test_cold_warm_and_cut_off_caches_give_the_same_weights(tmp_path, monkeypatch, empty, encoded, capsys):
    cold = train(tmp_path / "cold", **SECTIONS)
    assert encoded.count("image") == 8
    assert 1 < encoded.count("prompt") <= 17  # those of the 16 rows of two steps, and the empty one
    assert "encode prompts" in capsys.readouterr().err
    whole = sorted(path.name for path in empty.glob("*/*/*.safetensors"))
    encoded.clear()
    warm = train(tmp_path / "warm", **SECTIONS)
    assert encoded == []
    assert weights(warm) == weights(cold)
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "cut"))
    recipe, run = write_recipe(tmp_path / "cold.toml", **SECTIONS), tmp_path / "cut-off"
    for cut in (3, 5, 6, 5):
        encoded.clear()
        encoded.cut = cut
        assert apex("train", recipe, "--out", run) == 1
    encoded.clear()
    encoded.cut = -1
    assert apex("train", recipe, "--out", run) == 0
    assert "image" not in encoded  # shards of 2, 1, 2 and 1 batches were kept
    assert manifest(run, 2) == manifest(cold, 2)
    assert sorted(path.name for path in (tmp_path / "cut").glob("*/*/*.safetensors")) == whole


def test_losses_are_those_of_encoding_anew_at_every_step(tmp_path, monkeypatch, empty):
    class Online:
        def __init__(self, cached: Latents):
            self.cached = cached

        def __getitem__(self, rows):
            starts = [row // 4 * 4 for row in rows.tolist()]
            return torch.stack([self.cached._encode(range(s, s + 4))[r - s] for s, r in zip(starts, rows, strict=True)])

    @torch.no_grad()
    def cond(self, texts: list[str]) -> Cond:
        self.latents = Online(getattr(self.latents, "cached", None) or self.latents.parts[0])
        return Cond.cat([self.backbone.encode_prompts([text]) for text in texts])

    kept = train(tmp_path / "kept", **SECTIONS)
    monkeypatch.setattr(Inputs, "cond", cond)
    anew = train(tmp_path / "anew", **SECTIONS)
    assert [record["loss"] for record in metrics(anew)] == [record["loss"] for record in metrics(kept)]
    assert weights(anew) == weights(kept)


def test_from_noise_alone_no_image_is_encoded_and_any_image_trains_alike(tmp_path, empty, encoded, monkeypatch):
    alone = {"objective": SECTIONS["objective"] | {"lambda_e": 0}, "train": SECTIONS["train"]}
    run = train(tmp_path / "alone", **alone)
    assert "image" not in encoded
    captions = {"name": "prompts", "sources": [{"source": "captions:train", "limit": 32}], "keep_repetitions": True}
    recipe = write_recipe(tmp_path / "listed.toml", **alone)
    recipe.write_text(tomli_w.dumps(tomllib.loads(recipe.read_text()) | {"data": captions}))
    listed = tmp_path / "listed"
    assert apex("train", recipe, "--out", listed) == 0
    assert weights(listed) == weights(run)  # the captions of the scenes, in their order
    monkeypatch.setattr(Inputs, "_prepare_latents", encode_all)
    assert weights(train(tmp_path / "read", **alone)) == weights(run)
    assert encoded.count("image") == 8


def encode_all(self):
    """What a run does whose objective reads images."""
    self.latents = Latents(self.backbone, self.data, self.accelerator.device, self.about)
    for _ in self.latents.encode(self.latents.missing()):
        yield from ()
    self.latents.open()


def test_prompts_alone_are_refused_where_images_are_read(tmp_path, empty, capsys):
    listed = {"data": {"name": "prompts", "sources": [{"source": "shapes:train", "limit": 32}]}}
    sources = [{"name": "shapes", "size": 32}, {"name": "prompts", "sources": [{"source": "shapes:train"}]}]
    for data in (listed, {"data": {"name": "mixture", "sources": sources}}):
        recipe = tmp_path / "run.toml"
        recipe.write_text(tomli_w.dumps({"name": "run"} | DEFAULTS | data))
        for command in (["--plan"], ["--out", tmp_path / "run"]):
            assert apex("train", recipe, *command) == 2
            assert "has prompts alone" in capsys.readouterr().err


def test_blank_latents_have_the_shape_of_the_pictures(tmp_path, empty):
    class TwoShapes(list):
        pools = (Pool(np.arange(2), size=(64, 64)), Pool(np.arange(2, 4), size=(96, 32)))

    kind = registry.resolve("backbone", "sana")
    blank = Blank(kind(kind.Config(tiny=TINY)), TwoShapes(range(4)))
    assert blank[torch.tensor([1, 0])].shape == (2, 8, 8, 8)
    assert blank[torch.tensor([2, 3])].shape == (2, 8, 4, 12)


def test_a_text_encoder_that_learns_is_asked_at_every_step(tmp_path, empty, encoded):
    train(tmp_path / "run", train={"steps": 1, "text_encoder": True})
    assert "prompt" not in encoded
    assert not (empty / "prompts").exists()


def test_the_2d_world_has_no_text_encoder(tmp_path, empty):
    recipe = tmp_path / "run.toml"
    recipe.write_text(
        'name = "run"\n[backbone]\nname = "mlp"\nwidth = 16\n[objective]\nname = "fm"\ncaption_dropout = 0.3\n'
        '[data]\nname = "modes"\nsize = 64\n[train]\nsteps = 2\nbatch = 8\nlr = 1e-3\n'
    )
    assert apex("train", recipe, "--out", tmp_path / "run") == 0
    assert not empty.exists()


def test_idle_encoders_are_those_that_no_step_asks(tmp_path):
    from accelerate import Accelerator

    from apex_cli.objectives.base import Needs
    from apex_cli.training.parts import Parts
    from apex_cli.training.settings import TrainConfig

    kind = registry.resolve("backbone", "sana")
    model, data = kind(kind.Config(tiny=TINY)), ShapesData(ShapesConfig(size=8))

    def idle(needs: Needs, config: TrainConfig) -> list:
        return Inputs(
            model, data, needs, Parts(model, needs, config, None), config, Accelerator(cpu=True), {}, Path()
        ).encoders

    plain = TrainConfig(steps=1)
    assert idle(Needs(), plain) == [model.text_encoder, model.autoencoder]
    assert idle(Needs(), TrainConfig(steps=1, text_encoder=True)) == [model.autoencoder]
    assert idle(Needs(trains="autoencoder", inputs="pixels"), plain) == []
