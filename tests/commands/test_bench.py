"""`apex bench` as a user and a CI job meet it."""

from __future__ import annotations

import json

import pytest
import torch
from tiny_runs import write_recipe

from apex_cli import app

QUICK = ("--clock", "cpu", "--batch", "1", "--runs", "2", "--seconds", "0", "--warmup", "2")
CPU = pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")


def apex(*argv) -> int:
    return app.main(["bench", *map(str, argv)])


@CPU
def test_a_gpu_that_is_not_there(capsys):
    assert apex("--gpu", "a100") == 4
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("--gpu a100 was asked for, but this machine has no CUDA GPU, only ")
    assert "\n-> " in err


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (("--nfe", "1,x"), "--nfe 1,x: numbers"),
        (("--batch", "0"), "--batch 0: must be at least 1"),
        (("--mode", "plain,quick"), "There is no mode called 'quick'"),
        (("--clock", "sun"), "There is no clock called 'sun'"),
        (("--judge", "looks"), "--judge looks"),
        (("--analytic",), "--analytic asks whose floors"),
        (("--analytic", "--gpu", "a100"), "'shapes' has no published sizes"),
        (("--analytic", "--gpu", "a1000", "--model", "qwen-image"), "There is no GPU called 'a1000'"),
        (("--images", "3"), "--images needs a folder"),
    ],
)
def test_wrong_options(argv, told, capsys):
    assert apex(*argv) == 2
    assert capsys.readouterr().err.startswith(told)


@pytest.fixture(scope="module")
def baseline(tmp_path_factory):
    path = tmp_path_factory.mktemp("bench") / "base.json"
    assert apex(*QUICK, "--mode", "plain,diffusers", "--save", path, "--json") == 0
    return path


def test_files_and_the_last_line(baseline, tmp_path, capsys):
    assert apex(*QUICK, "--mode", "plain,diffusers", "--out", tmp_path / "o") == 0
    lines = capsys.readouterr().out.splitlines()
    document = json.loads(lines[-1])
    assert {cell["mode"] for cell in document["cells"]} == {"plain", "diffusers"}
    assert {file.name for file in (tmp_path / "o").iterdir()} == {f"bench.{k}" for k in ("json", "md", "csv", "png")}
    assert any("overhead: the harness adds" in line for line in lines)


def test_a_baseline_that_was_twice_as_fast(baseline, tmp_path, capsys):
    document = json.loads(baseline.read_text())
    for cell in document["cells"]:
        factor = 0.05 if cell["mode"] == "plain" else 0.5
        cell["times"] = [factor * seconds for seconds in cell["times"]]
    faster = tmp_path / "faster.json"
    faster.write_text(json.dumps(document))
    assert apex(*QUICK, "--mode", "plain,diffusers", "--compare", faster, "--judge", "ratio") == 9
    out, err = capsys.readouterr()
    assert "over diffusers is" in err and "times that of the baseline" in err
    changes = json.loads(out.splitlines()[-1])["changes"]
    assert {c["what"] for c in changes if c["regressed"] and "plain" in c["key"]} >= {"over diffusers"}


def test_a_baseline_of_another_device(baseline, tmp_path, capsys):
    document = json.loads(baseline.read_text())
    document["device"]["identity"] = "NVIDIA H200, 140 GiB"
    other = tmp_path / "other.json"
    other.write_text(json.dumps(document))
    assert apex(*QUICK, "--mode", "plain,diffusers", "--compare", other) == 2
    assert "another device: NVIDIA H200, 140 GiB" in capsys.readouterr().err


def test_pictures_into_a_folder_and_a_folder_that_is_none(tmp_path, capsys):
    argv = ("--images", 5, "--batch", 2, "--mode", "plain", "--out", tmp_path / "p", "--json")
    assert apex(*argv) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == 5
    assert len(list((tmp_path / "p").iterdir())) == 5
    (tmp_path / "f").write_text("")
    assert apex("--images", 5, "--out", tmp_path / "f") == 7
    assert "cannot be written" in capsys.readouterr().err


def test_optimizer_steps(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "r.toml", objective={"name": "apex", "lambda_g": 0})
    assert apex("train", recipe, "--runs", 3, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["steps"]) == ["apex", "plain flow matching"]
    assert 2.0 < found["flops_ratio"] < 2.6
    assert all(len(step["times"]) == 3 for step in found["steps"].values())
    assert found["ratio"]["low"] <= found["ratio"]["value"] <= found["ratio"]["high"]


def test_steps_without_a_transformer_are_not_timed(capsys):
    assert apex("train", "shapes_autoencoder") == 2
    assert "Only steps on latents can be timed" in capsys.readouterr().err
