"""`apex ckpt`: list, verify, and export to a folder that stock diffusers loads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_runs import APEX, LORA, apex

from apex_cli import build

MODELS = {
    "average": {"train": {"ema": 0.5, "text_encoder": True}},
    "adapters": {"objective": APEX, "train": LORA | {"lr": 0.1}},
}


@pytest.fixture
def run(once, capsys) -> Path:
    run = once("plain")
    capsys.readouterr()
    return run


def test_ls(run, capsys):
    assert apex("ckpt", "ls", run) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["CHECKPOINT", "STEP"],
        [str(run / "step-000002"), "2"],
        [str(run / "step-000004"), "4"],
    ]
    assert apex("ckpt", "ls", run / "step-000002", "--json") == 0
    assert json.loads(capsys.readouterr().out) == [{"checkpoint": str(run / "step-000002"), "step": 2}]


def test_verify(run, tmp_path, capsys):
    assert apex("ckpt", "verify", run) == 0
    assert capsys.readouterr().out == f"{run / 'step-000004'}: complete and unaltered\n"
    assert apex("ckpt", "verify", run, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"checkpoint": str(run / "step-000004"), "unaltered": True}
    copy = shutil.copytree(run / "step-000004", tmp_path / "copy")
    (copy / "recipe.toml").write_text("")
    assert apex("ckpt", "verify", copy) == 8
    assert "recipe.toml in" in capsys.readouterr().err
    assert apex("ckpt", "verify", copy, "--json") == 8
    assert json.loads(capsys.readouterr().out)["error"]["exit_code"] == 8


@pytest.mark.parametrize("command", [["ls"], ["verify"], ["export"]])
def test_where_there_is_none(command, tmp_path, capsys):
    dest = [tmp_path / "dest"] if command == ["export"] else []
    assert apex("ckpt", *command, tmp_path / "nowhere", *dest) == 8
    assert "There is no checkpoint or run at" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert apex("ckpt", *command, tmp_path / "empty", *dest) == 8
    assert "holds no finished checkpoint" in capsys.readouterr().err
    assert not (tmp_path / "dest").exists()


@torch.no_grad()
def picture(pipeline, noise: torch.Tensor) -> torch.Tensor:
    """One step of the stock pipeline."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline(
        "a photo of two blue stars", latents=noise.clone(), sigmas=[1.0], num_inference_steps=1, guidance_scale=1.0,
        height=64, width=64, use_resolution_binning=False, complex_human_instruction=None, output_type="pt",
    ).images  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_export_is_the_same_model_in_stock_diffusers(name, once, tmp_path, capsys):
    from diffusers import SanaPipeline

    run, dest = once(name, **MODELS[name]), tmp_path / "deep" / "exported"
    noise = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    model = build.load_model(run)
    before = picture(model.backbone.pipeline, noise)
    untrained = picture(build.load_model(once("plain")).backbone.pipeline, noise)
    capsys.readouterr()
    assert apex("ckpt", "export", run, dest) == 0
    assert capsys.readouterr().out == f"{dest}\n"
    exported = picture(SanaPipeline.from_pretrained(dest), noise)
    torch.testing.assert_close(exported, before, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(exported, untrained, atol=1e-3)
    assert not list(dest.rglob("*lora*"))
    assert apex("sample", "two blue stars", "--ckpt", dest, "--out", tmp_path / "images") == 0
    assert apex("ckpt", "verify", dest) == 0
    assert apex("ckpt", "export", run, dest) == 7
    assert "exists already" in capsys.readouterr().err


def test_export_in_half_precision(run, tmp_path):
    from safetensors.torch import load_file

    assert apex("ckpt", "export", run, tmp_path / "half", "--dtype", "bfloat16") == 0
    for file in (tmp_path / "half").rglob("*.safetensors"):
        assert all(value.dtype == torch.bfloat16 for value in load_file(file).values() if value.is_floating_point())
    assert apex("sample", "a red cube", "--ckpt", tmp_path / "half", "--out", tmp_path / "images") == 0
