"""`apex ckpt export`: every form is read back by stock diffusers, and the card's own code draws the card's picture."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_runs import APEX, apex

from apex_cli import build
from apex_cli.errors import CheckpointError
from apex_cli.exporting import comfyui
from apex_cli.exporting.export import TOLERANCE, Wanted, export
from apex_cli.generation import SampleConfig
from apex_cli.training import lora

ADAPTED = {"objective": APEX, "train": {"tuning": "lora", "lora": {"rank": 4, "alpha": 6.0}, "lr": 0.1}}
PROMPT = "a photo of a red cube"


@pytest.fixture
def adapted(once, capsys) -> Path:
    """A LoRA run that began at a pipeline which exists nowhere else, with alpha other than rank."""
    run = once("adapted", **ADAPTED)
    capsys.readouterr()
    return run


@pytest.fixture
def pipeline(once, tmp_path, capsys) -> Path:
    """A pipeline folder as of stock diffusers."""
    assert apex("ckpt", "export", once("plain"), tmp_path / "pipeline") == 0
    for name in ("contract.json", "manifest.json"):
        (tmp_path / "pipeline" / name).unlink()
    capsys.readouterr()
    return tmp_path / "pipeline"


def told(capsys) -> dict:
    return json.loads(capsys.readouterr().out)


def run_card(folder: Path, monkeypatch) -> np.ndarray:
    """Run the code of the card in its folder; the picture that it writes."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    exec(compile(code, "README.md", "exec"), {})
    return np.asarray(Image.open("image.png")).astype(int)


def picture_of(run: Path, folder: Path, capsys) -> np.ndarray:
    """What `apex sample` draws."""
    assert apex("sample", PROMPT, "--ckpt", run, "--out", folder) == 0
    return np.asarray(Image.open(capsys.readouterr().out.strip())).astype(int)


@pytest.mark.parametrize("form", ["merged", "diffusers"])
def test_the_card_draws_what_the_run_draws(form, adapted, tmp_path, monkeypatch, capsys):
    dest = tmp_path / "export"
    assert apex("ckpt", "export", adapted, dest, "--to", form, "--json") == 0
    facts = told(capsys)
    assert facts["difference"] <= TOLERANCE
    assert facts["call"] <= 1 / 255
    expected = picture_of(adapted, tmp_path / "run", capsys)
    assert np.array_equal(np.asarray(Image.open(dest / "sample.png")), expected)
    assert np.abs(picture_of(dest, tmp_path / "again", capsys) - expected).max() <= 1
    assert np.abs(run_card(dest, monkeypatch) - expected).max() <= 1
    assert apex("ckpt", "verify", dest) == 0
    assert str(adapted.parent) not in "".join(file.read_text() for file in dest.rglob("*.json"))


def test_a_lora_file_keeps_alpha_and_brings_its_base(adapted, tmp_path):
    dest = tmp_path / "export"
    assert apex("ckpt", "export", adapted, dest, "--to", "diffusers") == 0
    with safe_open(dest / lora.FILE, framework="pt") as file:
        assert json.loads(file.metadata()["lora_adapter_metadata"])["transformer.lora_alpha"] == 6.0
    assert (dest / lora.FILE).read_bytes() == (adapted / "step-000004" / "model" / lora.FILE).read_bytes()
    assert not any("lora" in key for key in load_file(next((dest / "base" / "transformer").glob("*.safetensors"))))


def test_trained_components_go_onto_a_named_base(once, pipeline, tmp_path, monkeypatch, capsys):
    run, dest = once("average", train={"ema": 0.5, "text_encoder": True}), tmp_path / "export"
    capsys.readouterr()
    assert apex("ckpt", "export", run, dest, "--to", "diffusers") == 2
    assert "Use --to merged, or name that base" in capsys.readouterr().err
    assert apex("ckpt", "export", run, dest, "--to", "diffusers", "--base", pipeline) == 0
    assert {path.name for path in dest.iterdir() if path.is_dir()} == {"transformer", "text_encoder"}
    capsys.readouterr()
    expected = picture_of(run, tmp_path / "run", capsys)
    assert np.abs(run_card(dest, monkeypatch) - expected).max() <= 1
    assert np.abs(picture_of(dest, tmp_path / "again", capsys) - expected).max() <= 1


def test_a_wrong_base_is_found_out_and_nothing_stays(adapted, pipeline, tmp_path, capsys):
    dest = tmp_path / "export"
    assert apex("ckpt", "export", adapted, dest, "--to", "diffusers", "--base", pipeline) == 8
    assert "The export differs from the run by" in capsys.readouterr().err
    assert not dest.exists()


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"sampler": "renoise", "nfe": 4}, True),
        ({"sampler": "euler", "nfe": 6, "guidance": 2.0, "time_shift": 3.0}, True),
        ({"sampler": "heun", "nfe": 1}, True),
        ({"sampler": "heun", "nfe": 3}, False),
        ({"sampler": "euler", "nfe": 2, "guidance": 0.5}, False),
    ],
    ids=str,
)
def test_other_samplers(settings, same, once, tmp_path, monkeypatch):
    model = build.load_model(once("plain"))
    config = SampleConfig(**settings)
    model = replace(model, sample=config, contract=model.contract | {"sample": config.model_dump()})
    proof = export(model, build.load_model, tmp_path / "export", Wanted("merged"))
    assert proof.difference <= TOLERANCE
    assert (proof.call is not None) == same
    assert ("Stock diffusers cannot draw exactly so" in (tmp_path / "export" / "README.md").read_text()) != same
    drawn = run_card(tmp_path / "export", monkeypatch)
    difference = np.abs(drawn - np.asarray(Image.open("sample.png"))).max()
    assert (difference <= 1) == same


def test_comfyui(adapted, tmp_path, capsys):
    dest = tmp_path / "export"
    assert apex("ckpt", "export", adapted, dest, "--to", "comfyui") == 0
    assert "weight updates differ from the run's by at most" in capsys.readouterr().err
    tensors = load_file(dest / "adapted.safetensors")
    stem = "transformer.transformer_blocks.0.attn1.to_q"
    assert {key for key in tensors if key.startswith(stem)} == {
        f"{stem}.lora_A.weight", f"{stem}.lora_B.weight", f"{stem}.alpha"
    }  # fmt: skip
    assert {float(value) for key, value in tensors.items() if key.endswith(".alpha")} == {6.0}
    stored = load_file(adapted / "step-000004" / "model" / lora.FILE)
    b, a = (stored[f"{stem}.lora_{half}.weight"] for half in "BA")
    updates = dict(comfyui.updates(dest / "adapted.safetensors"))
    assert len(updates) == len(stored) / 2
    torch.testing.assert_close(updates[stem.removeprefix("transformer.")], 1.5 * b @ a)
    card = (dest / "README.md").read_text()
    assert "adapted.safetensors" in card
    assert "ComfyUI itself has no model for `SanaPipeline`" in card
    assert apex("sample", PROMPT, "--ckpt", dest, "--out", tmp_path) == 8
    assert "is an export for ComfyUI" in capsys.readouterr().err


def test_comfyui_reads_another_update_without_alpha_or_a_module(adapted, tmp_path):
    network, file = build.load_model(adapted).backbone.network, tmp_path / "lora.safetensors"
    comfyui.save(network, file, torch.float32)
    assert comfyui.largest_difference(network, file) <= TOLERANCE
    tensors = load_file(file)
    name = next(key for key in tensors if key.endswith(".alpha"))
    save_file(tensors | {name: torch.tensor(4.0)}, file)
    assert comfyui.largest_difference(network, file) > TOLERANCE
    save_file({key: value for key, value in tensors.items() if key != name}, file)
    with pytest.raises(CheckpointError, match="form no module"):
        comfyui.largest_difference(network, file)
    stem = name.removesuffix("alpha")
    save_file({key: value for key, value in tensors.items() if not key.startswith(stem)}, file)
    with pytest.raises(CheckpointError, match="lacks"):
        comfyui.largest_difference(network, file)


@pytest.mark.parametrize(("form", "dtype"), [("diffusers", "bfloat16"), ("comfyui", "float16")])
def test_half_precision_is_told(form, dtype, adapted, tmp_path, capsys):
    dest = tmp_path / "export"
    assert apex("ckpt", "export", adapted, dest, "--to", form, "--dtype", dtype, "--json") == 0
    assert told(capsys)["difference"] > 0
    file = next(dest.glob("*.safetensors"))
    halves = [value for key, value in load_file(file).items() if "lora_" in key]
    assert {value.dtype for value in halves} == {getattr(torch, dtype)}


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--to", "comfyui"], 2, "this run trained whole weights"),
        (["--base", "."], 2, "Leave out --base."),
        (["--to", "diffusers", "--base", "assets:shapes_teacher"], 2, "cannot read assets:NAME"),
        (["--to", "diffusers", "--base", "nowhere/at/all"], 4, "does not exist"),
        (["--push", "a/b/c"], 2, "Write it as OWNER/NAME."),
        (["--push", "me/model"], 4, "HF_HUB_OFFLINE=1 forbids to push."),
    ],
)
def test_mistakes(argv, code, words, once, tmp_path, capsys):
    run = once("plain")
    capsys.readouterr()
    assert apex("ckpt", "export", run, tmp_path / "export", *argv) == code
    err = capsys.readouterr().err
    assert words in err
    assert "bug of apex" not in err
    assert not (tmp_path / "export").exists()


def test_an_export_is_not_taken_apart(once, tmp_path, capsys):
    assert apex("ckpt", "export", once("plain"), tmp_path / "merged") == 0
    assert apex("ckpt", "export", tmp_path / "merged", tmp_path / "parts", "--to", "diffusers") == 2
    assert "what was trained is not apart" in capsys.readouterr().err


def test_a_push_that_fails_leaves_the_export(adapted, tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    dest = tmp_path / "export"
    assert apex("ckpt", "export", adapted, dest, "--to", "diffusers", "--push", "me/model") == 4
    assert f"hf upload me/model {dest}" in capsys.readouterr().err
    assert 'folder = snapshot_download("me/model")' in (dest / "README.md").read_text()


def test_qwen_image_in_every_form(once, tmp_path, monkeypatch, capsys):
    tiny = {"layers": 1, "text_layers": 1}
    run = once("qwen", backbone={"name": "qwen_image", "tiny": tiny, "max_tokens": 64}, **ADAPTED)
    for form in ("merged", "diffusers"):
        dest = tmp_path / form
        capsys.readouterr()
        assert apex("ckpt", "export", run, dest, "--to", form, "--json") == 0
        assert told(capsys)["difference"] <= TOLERANCE
        drawn = run_card(dest, monkeypatch)
        assert np.abs(drawn - np.asarray(Image.open(dest / "sample.png"))).max() <= 1
    assert apex("ckpt", "export", run, tmp_path / "comfyui", "--to", "comfyui", "--json") == 0
    assert told(capsys)["difference"] <= TOLERANCE
    assert "ComfyUI itself has no model" not in (tmp_path / "comfyui" / "README.md").read_text()
