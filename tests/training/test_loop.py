"""The loop: how a batch is cut changes nothing, what is measured, and what stops it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import APEX, LORA, apex, metrics, train, write_recipe

from apex_cli.training.schedule import micro_slices
from apex_cli.worlds.shapes.questions import ANSWERS

ROOT = Path(__file__).resolve().parents[2]
ACCUMULATED = {"objective": APEX | {"caption_dropout": 0.3}, "train": {"steps": 4, "batch": 8}}


def losses(run: Path) -> np.ndarray:
    return np.array([[record["loss"], record["grad_norm"]] for record in metrics(run)])


def same_telemetry(run: Path, other: Path) -> None:
    """Whoever computed it: errors by time, distances and norms are those of all samples."""
    for one, two in zip(metrics(run), metrics(other), strict=True):
        assert one["telemetry"] == pytest.approx(two["telemetry"], rel=1e-4)


@pytest.mark.parametrize(("ranks", "micro"), [(1, None), (1, 3), (2, None), (4, 2), (2, 99)])
def test_micro_batches_share_out_the_batch(ranks, micro):
    rows = [i for rank in range(ranks) for part in micro_slices(16, ranks, rank, micro) for i in range(16)[part]]
    assert rows == list(range(16))


@pytest.mark.parametrize("micro", [2, 3])
def test_accumulation_equals_one_big_batch(once, tmp_path, micro):
    whole = once("whole", **ACCUMULATED)
    parts = train(tmp_path / "parts", **ACCUMULATED | {"train": ACCUMULATED["train"] | {"micro_batch": micro}})
    np.testing.assert_allclose(losses(parts), losses(whole), rtol=3e-6)


@pytest.mark.dist
@pytest.mark.timeout(1800)
def test_two_ranks_equal_one_process(once, tmp_path):
    """By torchrun on gloo; and one process continues what two began."""
    recipe = write_recipe(tmp_path / "whole.toml", **ACCUMULATED)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "-m", "apex_cli.app", "train", recipe, "--out", tmp_path / "ranks"]  # fmt: skip
    cold = os.environ | {"APEX_CACHE": str(tmp_path / "cold")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=cold)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "ranks")  # only one rank speaks
    assert len(list((tmp_path / "cold").glob("prompts/*/*.safetensors"))) == 2  # the ranks shared out the captions
    expected = losses(once("whole", **ACCUMULATED))
    np.testing.assert_allclose(losses(tmp_path / "ranks"), expected, rtol=1e-5)
    same_telemetry(tmp_path / "ranks", once("whole", **ACCUMULATED))
    shutil.rmtree(tmp_path / "ranks" / "step-000004")
    assert apex("train", recipe, "--out", tmp_path / "ranks") == 0
    np.testing.assert_allclose(losses(tmp_path / "ranks"), expected, rtol=1e-5)


def test_what_is_measured(once):
    first, second, *_ = metrics(once("whole", **ACCUMULATED))
    assert first["step"] == 1
    for name in ("match", "fake", "sup"):
        assert first["telemetry"][f"gradient.{name}"] > 0  # at every `telemetry_every`-th step
        assert f"gradient.{name}" not in second["telemetry"]
    assert first["telemetry"]["shift_distance"] > 0
    assert any(name.startswith("error.t") for name in first["telemetry"])
    assert {"match", "fake", "sup"} == first["parts"].keys()


def test_an_encoder_learns_to_read_and_the_rest_stays(tmp_path):
    reading = {"objective": {"name": "reading", "answers": ANSWERS}, "data": {"name": "shapes", "size": 512}}
    settings = {"steps": 60, "batch": 64, "lr": 1e-2, "log_every": 20, "save_every": 60, "keep": 1}
    run = train(tmp_path / "reader", **reading, train=settings)
    first, *_, last = metrics(run)
    assert last["loss"] < 0.5 * first["loss"]
    assert {path.name for path in (run / "step-000060" / "model").iterdir()} == {
        "text_encoder",
        "objective.safetensors",
    }
    flow = train(tmp_path / "flow", backbone={"name": "sana", "path": str(run)}, train={"steps": 1})
    assert not (flow / "samples" / "teacher.png").exists()  # it starts from a reader, not from a flow model


def test_a_shift_that_changes_nothing_is_told(tmp_path, capsys):
    shift = {"condition_shift": {"a": 1.0, "b": 0.0}}
    train(tmp_path / "run", objective=APEX | shift, train={"steps": 1})
    assert "is invisible to this backbone" in capsys.readouterr().err


def test_grids_and_checkpoints_come_when_asked(tmp_path):
    run = train(tmp_path / "run", train={"steps": 5, "save_every": 1, "keep": 2, "sample_every": 3})
    assert sorted(path.name for path in (run / "samples").glob("step-*.png")) == [
        "step-000000.png",
        "step-000003.png",
        "step-000005.png",
    ]
    assert sorted(path.name for path in run.glob("*step-*")) == ["step-000004", "step-000005"]


def test_an_average_follows_the_weights(tmp_path):
    """real = "ema" asks the average, not the weights the run began with."""
    section = {"objective": APEX | {"real": "ema"}, "train": {"steps": 3, "lr": 3e-2, "ema": 0.1}}
    frozen = train(tmp_path / "frozen", **section | {"objective": APEX | {"real": "base"}})
    followed = train(tmp_path / "followed", **section)
    assert losses(followed)[0, 0] == losses(frozen)[0, 0]
    assert abs(losses(followed)[2, 0] - losses(frozen)[2, 0]) > 1e-4


def test_what_is_trained_moves_and_nothing_else(once):
    """LoRA: the file holds adapters alone. Full: transformer, and the text encoder only when asked."""
    adapter = load_file(once("lora", train=LORA) / "step-000004/model/pytorch_lora_weights.safetensors")
    assert all(".lora_A." in name or ".lora_B." in name for name in adapter)
    assert any(value.any() for name, value in adapter.items() if ".lora_B." in name)
    assert not list(once("whole", **ACCUMULATED).glob("step-*/model/text_encoder"))


def test_a_run_may_begin_where_lora_ended(once, tmp_path):
    """The adapters are fused: the next run starts from one ordinary model, with adapters of its own or without."""
    first = once("lora", train=LORA)
    for name, tuning in {"adapted": LORA, "full": {}}.items():
        run = train(tmp_path / name, backbone={"path": str(first)}, train=tuning | {"steps": 1})
        assert losses(run)[0, 0] < 10
        assert apex("ckpt", "export", run, tmp_path / f"{name}-exported") == 0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"objective": APEX | {"real": "ema"}}, "asks for a weight average"),
        ({"train": LORA | {"lora": {"targets": ["to_quack"]}}}, "No module of the network is called to_quack"),
    ],
)
def test_settings_that_cannot_go_together(tmp_path, capsys, sections, message):
    recipe = write_recipe(tmp_path / "run.toml", **sections)
    assert apex("train", recipe, "--out", tmp_path / "run") == 2
    assert message in capsys.readouterr().err


def test_a_batch_that_the_ranks_cannot_share(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert apex("train", write_recipe(tmp_path / "run.toml"), "--out", tmp_path / "run") == 2
    assert "train.batch = 8 cannot be shared by 3 ranks" in capsys.readouterr().err


def finite(run: Path) -> bool:
    files = run.glob("step-*/**/*.safetensors")
    return all(value.isfinite().all() for file in files for value in load_file(file).values())


@pytest.mark.parametrize("lr", [1e30, 1e39])
def test_a_run_that_blows_up_saves_nothing_bad(tmp_path, capsys, lr):
    recipe = write_recipe(tmp_path / "run.toml", train={"lr": lr, "save_every": 1})
    assert apex("train", recipe, "--out", tmp_path / "run") == 6
    assert "is not finite" in capsys.readouterr().err
    assert finite(tmp_path / "run")


def test_a_bad_row_is_named(tmp_path, capsys, monkeypatch):
    from apex_cli.backbones.sana import Sana

    def encode(self, pixels):
        latents = pixels.new_ones(len(pixels), *self.latent_shape)
        latents[5] = torch.nan
        return latents

    monkeypatch.setattr(Sana, "encode_images", encode)
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "cache"))
    recipe = write_recipe(tmp_path / "run.toml", train={"micro_batch": 1, "steps": 40})
    assert apex("train", recipe, "--out", tmp_path / "run") == 6
    assert "Rows of the data: [5]" in capsys.readouterr().err
    assert finite(tmp_path / "run")
