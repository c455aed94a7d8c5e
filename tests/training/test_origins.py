"""What was made from a base stays what it is, whatever becomes of the base."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from tiny_runs import LORA, apex, manifest, metrics, train, write_recipe

from apex_cli import __version__, build
from apex_cli.errors import CheckpointError
from apex_cli.training import checkpoint

BASE = {"train": {"steps": 2, "keep": 9}}


def weights(path: Path) -> dict[str, Any]:
    return {name: value.clone() for name, value in build.load_model(path).backbone.network.state_dict().items()}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(value.equal(other[name]) for name, value in one.items())


@pytest.fixture
def base(tmp_path) -> Path:
    return train(tmp_path / "base", **BASE)


def train_on(base: Path) -> None:
    assert apex("train", base.with_suffix(".toml"), "--out", base, "--set", "train.steps=4") == 0


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the contract of a checkpoint, and its hash in the manifest."""
    contract, facts = checkpoint.read_contract(folder), json.loads((folder / "manifest.json").read_text())
    change(contract)
    (folder / "contract.json").write_text(text := json.dumps(contract))
    facts["contract.json"] = hashlib.sha256(text.encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(facts))


def test_a_base_that_trains_on_changes_nothing_made_from_it(base, tmp_path):
    sections = {"backbone": {"path": str(base)}, "train": LORA | {"steps": 4}}
    whole = train(tmp_path / "lora", **sections)
    run = shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(run / "step-000004")
    before = weights(whole)
    train_on(base)
    assert equal(weights(whole), before)
    assert apex("train", tmp_path / "lora.toml", "--out", run) == 0
    assert manifest(run, 4) == manifest(whole, 4)
    contract = checkpoint.read_contract(run / "step-000004")
    assert contract["apex"] == __version__
    assert contract["backbone"]["config"]["path"] == str(base / "step-000002")
    assert contract["backbone"]["manifest"] == checkpoint.identity(base / "step-000002")
    other = train(tmp_path / "other", **sections)  # a new run begins with what the base is now
    assert checkpoint.read_contract(other / "step-000004")["base"] == str(base / "step-000004")


def test_a_base_that_is_gone_or_altered_is_told(base, tmp_path, capsys):
    run = train(tmp_path / "lora", backbone={"path": str(base)}, train=LORA | {"steps": 2, "save_every": 1})
    rewrite(base / "step-000002", lambda contract: contract.update(name="another"))
    with pytest.raises(CheckpointError, match="has changed"):
        build.load_model(run)
    shutil.rmtree(run / "step-000002")
    capsys.readouterr()
    assert apex("train", tmp_path / "lora.toml", "--out", run) == 8
    assert "is not the checkpoint that this run was made from" in capsys.readouterr().err
    shutil.rmtree(base / "step-000002")
    with pytest.raises(CheckpointError, match=r"step-000002', which .*lora.* was made from, is gone"):
        build.load_model(run)


def test_a_contract_that_pins_nothing_is_read(base, tmp_path):
    """Contracts once named the run alone."""
    run = train(tmp_path / "lora", backbone={"path": str(base)}, train=LORA | {"steps": 1})
    before = weights(run)

    def unpin(contract: dict[str, Any]) -> None:
        del contract["backbone"]["manifest"], contract["backbone"]["config"]["revision"], contract["apex"]
        contract["backbone"]["config"]["path"] = contract["base"] = str(base)

    rewrite(run / "step-000001", unpin)
    assert equal(weights(run), before)


def test_a_hub_repository_that_moves_changes_nothing(tmp_path, monkeypatch):
    """By the layout of the hub's cache; nothing is fetched."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--someone--tiny"
    (repository / "refs").mkdir(parents=True)

    def publish(commit: str, seed: int) -> None:
        run = train(tmp_path / f"run-{seed}", train={"steps": 1, "seed": seed, "lr": 1e-2})
        assert apex("ckpt", "export", run, repository / "snapshots" / commit) == 0
        for file in ("contract.json", "manifest.json"):
            (repository / "snapshots" / commit / file).unlink()
        (repository / "refs" / "main").write_text(commit)

    first, second = "0" * 40, "1" * 40
    publish(first, 1)
    run = train(tmp_path / "lora", backbone={"path": "someone/tiny"}, train=LORA | {"steps": 2, "save_every": 1})
    before = weights(run)
    publish(second, 2)
    assert equal(weights(run), before)
    assert checkpoint.read_contract(run / "step-000002")["backbone"]["config"]["revision"] == first
    shutil.rmtree(run / "step-000002")
    assert apex("train", tmp_path / "lora.toml", "--out", run) == 0
    assert checkpoint.read_contract(run / "step-000002")["backbone"]["config"]["revision"] == first
    assert apex("ckpt", "export", run, tmp_path / "export") == 0
    assert checkpoint.read_contract(tmp_path / "export")["base"] == "someone/tiny"
    assert "someone/tiny" in (tmp_path / "export" / "README.md").read_text()
    chosen = write_recipe(tmp_path / "chosen.toml", backbone={"path": "someone/tiny", "revision": first}, train=LORA)
    assert apex("train", chosen, "--out", tmp_path / "chosen", "--set", "train.steps=1") == 0
    assert checkpoint.read_contract(tmp_path / "chosen" / "step-000001")["backbone"]["config"]["revision"] == first


def test_a_pipeline_of_others_is_a_teacher_once_it_is_told_how_it_is_sampled(base, tmp_path, capsys):
    pipeline = tmp_path / "pipeline"
    assert apex("ckpt", "export", base, pipeline) == 0
    for file in ("contract.json", "manifest.json"):
        (pipeline / file).unlink()
    sections = {"backbone": {"path": str(pipeline)}, "train": LORA | {"steps": 1, "sample_seeds": 2}}
    compare = ["sample", "a red cube", "--compare", 4, "--out", tmp_path / "drawn", "--ckpt"]

    told = train(tmp_path / "told", **sections, teacher_sample={"sampler": "euler", "nfe": 4, "guidance": 2.0})
    assert checkpoint.read_contract(told / "step-000001")["base"] == str(pipeline)
    assert (told / "samples" / "teacher.png").is_file()
    assert metrics(told)[-1]["telemetry"]["teacher_diversity"] > 0
    assert apex(*compare, told) == 0

    untold = train(tmp_path / "untold", **sections)
    assert not (untold / "samples" / "teacher.png").exists()
    capsys.readouterr()
    assert apex(*compare, untold) == 8
    assert f"does not say how '{pipeline}', which it was distilled from, is sampled" in capsys.readouterr().err


def test_a_fresh_pipeline_is_no_teacher(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "run.toml", teacher_sample={"sampler": "euler", "nfe": 4})
    assert apex("train", recipe, "--out", tmp_path / "run") == 2
    assert "[teacher_sample] says how the model behind backbone.path is sampled" in capsys.readouterr().err
