"""Replayed steps give the weights of ordinary ones. The CPU replays by running the same function on the same memory."""

from __future__ import annotations

import shutil
from dataclasses import fields

import pytest
import torch
from reruns import rerun
from tiny_runs import APEX, LORA, apex, metrics, ready_trainer, train, write_recipe

from apex_cli.backbones.fast import graphs
from apex_cli.training.recorded import Recorded, rounded

STEPS = {"steps": 6, "batch": 4, "telemetry_every": 3, "ema": 0.9}


def trainer(folder, **changes):
    return ready_trainer(folder, objective=APEX | {"guidance": 2.0}, train=STEPS | changes)


@pytest.mark.parametrize("train", [{}, {"micro_batch": 2}, LORA], ids=["full", "accumulated", "lora"])
def test_the_weights_are_those_of_ordinary_steps(tmp_path, train):
    ordinary, replayed = trainer(tmp_path, **train), trainer(tmp_path, **train)
    replayed.recorded = Recorded(replayed._backward, replayed.state.values, rerun)
    for _ in range(STEPS["steps"]):
        torch.testing.assert_close(replayed._optimize(), ordinary._optimize(), rtol=1e-5, atol=1e-6)
    # Adam divides by the size of a gradient, so that padding, which rounds otherwise, shows where there is hardly one.
    torch.testing.assert_close(replayed.state.values, ordinary.state.values, rtol=1e-3, atol=1e-4)
    facts, expected = (made.telemetry.collect(lambda value: value)[0] for made in (replayed, ordinary))
    assert facts == pytest.approx(expected, rel=1e-3)
    assert len(replayed.recorded.replay.records) == 1  # texts have few lengths


def test_texts_have_few_lengths_and_their_padding_is_no_text(tmp_path):
    batch, _ = next(trainer(tmp_path)._micros(0))
    found = rounded(batch)
    assert found.cond.tokens.shape[1] == found.uncond.tokens.shape[1] == graphs.STEP
    assert found.cond.mask.sum() == batch.cond.mask.sum()
    assert {field.name for field in fields(found) if getattr(found, field.name) is not getattr(batch, field.name)} == {
        "cond",
        "uncond",
    }


@pytest.mark.gpu
@pytest.mark.parametrize("train", [{}, {"micro_batch": 2}, LORA, {"precision": "bf16"}])
def test_cuda_graphs_give_the_losses_of_ordinary_steps(tmp_path, train):
    ordinary, replayed = trainer(tmp_path, **train), trainer(tmp_path, **train, graphs=True)
    assert replayed.recorded is not None
    close = 0.02 if train.get("precision") == "bf16" else 1e-3
    for _ in range(STEPS["steps"]):
        torch.testing.assert_close(replayed._optimize(), ordinary._optimize(), rtol=close, atol=close)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("train", "told"), [({"gradient_checkpointing": 1.0}, "gradient checkpointing"), ({"text_encoder": True}, "text")]
)
def test_what_cannot_be_recorded_is_refused(tmp_path, capsys, train, told):
    path = write_recipe(tmp_path / "r.toml", train=STEPS | train | {"graphs": True})
    assert apex("train", path, "--out", tmp_path / "run") == 2
    assert told in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True])
def test_a_run_on_cuda_goes_on_where_it_was(tmp_path, graphs):
    """Its batches are made in a thread beside the steps."""
    run = train(tmp_path / "run", objective=APEX, train=STEPS | {"graphs": graphs, "save_every": 2})
    whole = metrics(run)
    for step in (4, 6):
        shutil.rmtree(run / f"step-{step:06d}")
    train(run, objective=APEX, train=STEPS | {"graphs": graphs, "save_every": 2})
    again = metrics(run)
    assert [row["step"] for row in again] == [row["step"] for row in whole]
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in whole], rel=1e-3)
