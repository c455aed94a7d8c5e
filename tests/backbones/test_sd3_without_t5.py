"""SD3 whose T5 was left out, in every way that it can be: the stock pipeline with `text_encoder_3 = None`."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines
import tomli_w
import torch
from PIL import Image
from tiny_runs import APEX, LORA, apex, own_cache  # noqa: F401

from apex_cli.backbones.fast import twin
from apex_cli.backbones.sd3 import Sd3, Sd3Config
from apex_cli.data import identity
from apex_cli.data.prompts import Prompts
from apex_cli.objectives.fm import FlowMatching, FlowMatchingConfig
from apex_cli.training.cost import Bench
from apex_cli.training.settings import TrainConfig

CLOSE = {"atol": 1e-5, "rtol": 1e-5}
SIGMAS = (1.0, 0.8, 0.3, 0.0)
T5 = ("text_encoder_3", "tokenizer_3")
FORMS = ("null", "unnamed", "deleted", "unread")


@pytest.fixture(scope="module")
def whole(cases, tmp_path_factory) -> Path:
    """A pipeline folder with T5, and a network that hears its prompt."""
    folder = tmp_path_factory.mktemp("sd3") / "whole"
    cases("sd3").model.save(folder)
    return folder


@pytest.fixture(scope="module")
def bare(whole) -> Any:
    """The stock pipeline as diffusers itself leaves T5 out."""
    from diffusers import StableDiffusion3Pipeline

    return StableDiffusion3Pipeline.from_pretrained(whole, **dict.fromkeys(T5))


@pytest.fixture(scope="module")
def config(whole, bare, tmp_path_factory) -> Callable[[str], Sd3Config]:
    """`config(form)`: how a folder is read whose T5 is null in model_index.json, not named there, named but deleted,
    or left unread."""

    def made(form: str) -> Sd3Config:
        folder = whole if form == "unread" else tmp_path_factory.mktemp("sd3") / form
        if form == "null":
            bare.save_pretrained(folder)
        elif form != "unread":
            shutil.copytree(whole, folder, ignore=shutil.ignore_patterns(*T5))
        if form == "unnamed":
            index = json.loads((folder / "model_index.json").read_text())
            (folder / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k not in T5}))
        alone = {"t5": False} if form in ("deleted", "unread") else {}
        return Sd3Config(path=str(folder), resolution=tiny_pipelines.RESOLUTION, max_tokens=64, **alone)

    return made


@torch.no_grad()
@pytest.mark.parametrize("form", FORMS)
def test_prompts_and_pictures_are_those_of_the_stock_pipeline(form, config, bare, cases):
    case = replace(cases("sd3"), model=Sd3(config(form)))
    made = bare.encode_prompt(list(case.prompts), prompt_2=None, prompt_3=None, max_sequence_length=64)
    cond = case.model.encode_prompts(case.prompts)
    torch.testing.assert_close(cond.tokens, made[0], **CLOSE)
    torch.testing.assert_close(cond.pooled, made[2], **CLOSE)
    assert not cond.tokens[:, -64:].any() and cond.tokens[:, :-64].any()
    noise, _ = case.inputs()
    expected = case.stock(noise, SIGMAS, pipeline=bare, guidance_scale=3.0)
    torch.testing.assert_close(case.euler(noise, SIGMAS, 3.0), expected, **CLOSE)
    assert (expected - cases("sd3").euler(noise, SIGMAS, 3.0)).abs().max() > 1e-3  # T5 was heard


def test_a_cache_tells_t5_from_none_and_nothing_else(config, whole):
    found = [identity.fingerprint(identity.reader(Sd3(config(form)))) for form in FORMS]
    settings = {"path": str(whole), "resolution": tiny_pipelines.RESOLUTION, "max_tokens": 64}
    assert set(found[1:]) == {found[0]} != {identity.fingerprint(identity.reader(Sd3(Sd3Config(**settings))))}


@torch.no_grad()
def test_the_fast_twin_keeps_every_zero(config):
    """Their number is not that of the tokens that CLIP reads."""
    plain = Sd3(config("unread").model_copy(update={"max_tokens": 100}))
    cond, read = plain.encode_prompts(["a ring"]), twin.make("sd3", plain, (1.0,)).encode_prompts(["a ring"])
    assert cond.tokens.shape == (1, 77 + 100, tiny_pipelines.TEXT_WIDTH)
    torch.testing.assert_close(read.tokens, cond.tokens, **CLOSE)


@torch.no_grad()
def test_in_bf16_the_zeros_are_too(config):
    model = Sd3(config("unread").model_copy(update={"dtype": "bf16"}))
    assert model.encode_prompts(["a ring"]).tokens.dtype == torch.bfloat16


@pytest.mark.parametrize("form", FORMS)
def test_planned_without_weights(form, config):
    with torch.device("meta"):
        skeleton = Sd3(config(form))
    assert [name for name, _ in skeleton.text_encoder.items()] == ["text_encoder", "text_encoder_2"]
    objective = FlowMatching(FlowMatchingConfig())
    bench = Bench(skeleton, objective, TrainConfig(steps=1), ["a ring"] * 2, 2)
    assert bench.cost(objective).total > 0
    assert bench.prompt()[0] == 77 + 64


def test_trained_cached_sampled_and_exported(config, whole, tmp_path, monkeypatch, capsys):
    """A LoRA run on the unread form leaves its prompts in the cache, and the code of its exports' cards draws with
    stock diffusers what `apex sample` draws."""
    data, recipe, run, dest = (tmp_path / name for name in ("pictures", "bare.toml", "run", "exports"))
    data.mkdir()
    for color in ("red", "blue"):
        Image.new("RGB", (16, 16), color).save(data / f"{color}.png")
        (data / f"{color}.txt").write_text(f"a {color} square")
    train = {"steps": 2, "batch": 2, "lr": 0.1, "sample_prompts": ["a red square"], "sample_seeds": 1}
    sections = {
        "backbone": {"name": "sd3", **config("unread").model_dump(exclude_defaults=True)},
        "objective": APEX,
        "data": {"name": "folder", "path": str(data)},
        "train": train | LORA,
    }
    recipe.write_text(tomli_w.dumps({"name": "bare"} | sections))
    assert apex("train", recipe, "--out", run) == 0
    model, prompt = Sd3(config("unread")), "a red square"
    cache = Prompts(model, [prompt, "a blue square"], torch.device("cpu"), {})
    assert cache.missing() == []
    torch.testing.assert_close(cache[prompt].tokens, model.encode_prompts([prompt]).tokens, **CLOSE)
    capsys.readouterr()
    assert apex("sample", prompt, "--ckpt", run, "--out", tmp_path) == 0
    drawn = np.asarray(Image.open(capsys.readouterr().out.strip())).astype(int)
    for form in (["diffusers", "--base", whole], ["merged"]):
        assert apex("ckpt", "export", run, dest / form[0], "--to", *form) == 0
        (code,) = re.findall(r"```python\n(.*?)```", (dest / form[0] / "README.md").read_text(), re.DOTALL)
        monkeypatch.chdir(dest / form[0])
        exec(compile(code, "README.md", "exec"), {})
        assert np.abs(np.asarray(Image.open("image.png")).astype(int) - drawn).max() <= 1
