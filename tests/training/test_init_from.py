"""A student may begin with the weights of another run, while v_real stays what `backbone.path` says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tiny_runs import APEX, LORA, apex, manifest, metrics, train, write_recipe

from apex_cli import build
from apex_cli.training import checkpoint

STILL = {"lr": 1e-12, "steps": 1}
"""Hardly a step at all."""


def student(run: Path) -> dict[str, list[float]]:
    network = build.load_model(run).backbone.network
    return {name: value.flatten().tolist() for name, value in network.named_parameters()}


def close(one: Path, other: Path) -> bool:
    mine, theirs = student(one), student(other)
    return mine.keys() == theirs.keys() and all(
        value == pytest.approx(theirs[name], abs=1e-6) for name, value in mine.items()
    )


@pytest.mark.parametrize("tuning", [{}, LORA])
def test_the_student_begins_there_and_v_real_does_not(tuning, tmp_path):
    base = train(tmp_path / "base", train={"steps": 2})
    sections = {"backbone": {"path": str(base)}, "objective": APEX}
    earlier = train(tmp_path / "earlier", **sections, train=tuning | {"ema": 0.5, "steps": 3, "lr": 1e-2})
    plain = train(tmp_path / "plain", **sections, train=tuning | STILL)
    run = train(tmp_path / "run", **sections, train=tuning | STILL | {"init_from": str(earlier), "ema": 0.9})
    assert close(run, earlier)
    assert not close(plain, earlier)
    assert checkpoint.last_contract(run)["base"] == checkpoint.last_contract(plain)["base"] == str(base / "step-000002")
    drawn = train(tmp_path / "drawn", **(sections | {"backbone": {"path": str(earlier)}}), train=tuning | STILL)
    match = {name.name: metrics(name)[0]["parts"]["match"] for name in (plain, run, drawn)}
    assert match["run"] != pytest.approx(match["plain"], rel=0.01)  # another student
    assert match["run"] != pytest.approx(match["drawn"], rel=0.01)  # another v_real


def test_a_recipe_that_goes_on_from_another_says_which_comes_first(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert apex("train", "shapes_student_2") == 4
    assert "apex train shapes_student\n" in capsys.readouterr().err


def test_it_is_asked_once(tmp_path):
    earlier = train(tmp_path / "earlier", train={"steps": 2})
    sections = {"train": {"init_from": str(earlier), "steps": 4}}
    whole = train(tmp_path / "run", **sections)
    run = shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(run / "step-000004")
    shutil.rmtree(earlier)
    assert apex("train", tmp_path / "run.toml", "--out", run) == 0
    assert manifest(run, 4) == manifest(whole, 4)


def test_an_export_serves_full_tuning(tmp_path):
    earlier = train(tmp_path / "earlier", train={"steps": 2, "lr": 1e-2})
    assert apex("ckpt", "export", earlier, tmp_path / "export") == 0
    assert close(train(tmp_path / "run", train=STILL | {"init_from": str(tmp_path / "export")}), earlier)


@pytest.mark.parametrize(
    ("train_section", "told"),
    [
        (LORA | {"init_from": "earlier"}, "holds weights of another kind (sana, full)"),
        ({"init_from": "adapters"}, "holds weights of another kind (sana, lora)"),
        ({"init_from": "assets:shapes_qwen_teacher"}, "holds weights of another kind (qwen_image, exported)"),
        ({"init_from": "assets:shapes_student"}, "do not fit the student"),
        ({"tuning": "lora", "lora": {"rank": 2}, "init_from": "adapters"}, "do not fit the student"),
        (
            {"tuning": "lora", "lora": {"rank": 4, "targets": ["to_q"]}, "init_from": "adapters"},
            "do not fit the student",
        ),
        ({"init_from": "nothing"}, "There is no checkpoint or run at 'nothing'"),
    ],
)
def test_what_does_not_fit_is_told(train_section, told, once, tmp_path, monkeypatch, capsys):
    for name, tuning in (("earlier", {}), ("adapters", LORA)):
        shutil.copytree(once(name, train=tuning | {"steps": 1}), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "run.toml", train=train_section)
    assert apex("train", recipe, "--out", tmp_path / "run") in (2, 8)
    err = capsys.readouterr().err
    assert told in err
    assert "\n-> " in err
