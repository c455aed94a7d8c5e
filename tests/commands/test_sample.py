"""`apex sample`: files, their metadata, and what it says about prompts it cannot follow."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import APEX, LORA, apex


@pytest.fixture
def run(once, capsys) -> Path:
    run = once("plain")
    capsys.readouterr()
    return run


@pytest.fixture
def student(once, run, capsys) -> Path:
    """A LoRA run that began at `run`, its teacher."""
    student = once("student", backbone={"path": str(run)}, objective=APEX, train=LORA)
    capsys.readouterr()
    return student


def pixels(path: str | Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_picture_and_its_facts(run, tmp_path, capsys):
    assert apex("sample", "a red cube", "--ckpt", run, "--out", tmp_path, "--nfe", 2, "--seed", 7) == 0
    out, err = capsys.readouterr()
    (path,) = out.split()
    picture = Image.open(path)
    assert picture.size == (64, 64)
    assert picture.text["prompt"] == "a red cube"
    assert picture.text["seed"] == "7"
    assert picture.text["index"] == "0"
    assert picture.text["nfe"] == "2"
    assert picture.text["checkpoint"] == str(run / "step-000004")
    assert len(picture.text["recipe"]) == 64
    assert "1 image(s) at 2 NFE (counted)" in err


def test_pictures_of_other_evaluations_and_models_lie_beside(run, tmp_path, capsys):
    asked = [(run, 1), (run, 2), (run / "step-000002", 1), (run, 1)]
    for ckpt, nfe in asked:
        assert apex("sample", "a red cube", "--ckpt", ckpt, "--out", tmp_path, "--nfe", nfe) == 0
    told = [Path(line).name for line in capsys.readouterr().out.split()]
    name = f"0000-a-red-cube-s0-0-nfe{{}}-{run.name}-step-00000{{}}.png"
    assert told == [name.format(1, 4), name.format(2, 4), name.format(1, 2), name.format(1, 4)]
    assert {path.name for path in tmp_path.iterdir()} == set(told)


def test_json_prompt_file_and_grid(run, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red cube\n\n two blue stars \n")
    argv = ["--prompt-file", tmp_path / "prompts.txt", "--n", 2, "--grid", "--ckpt", run, "--out", tmp_path / "out"]
    assert apex("sample", *argv, "--json") == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert err == ""
    assert [(i["prompt"], i["seed"], i["index"], i["nfe"]) for i in told["images"]] == [
        ("a red cube", 0, 0, 1),
        ("a red cube", 0, 1, 1),
        ("two blue stars", 0, 0, 1),
        ("two blue stars", 0, 1, 1),
    ]
    assert len({pixels(image["file"]).tobytes() for image in told["images"]}) == 4
    assert Image.open(told["grid"]).size == (260, 260)


def test_the_same_again_at_any_batch_size(run, tmp_path, capsys):
    for batch in (1, 3):
        argv = ["a red cube", "a photo of three hearts", "--n", 2, "--ckpt", run, "--batch", batch]
        assert apex("sample", *argv, "--out", tmp_path / str(batch)) == 0
    one, other = (sorted((tmp_path / name).iterdir()) for name in "13")
    for a, b in zip(one, other, strict=True):
        assert a.name == b.name
        assert np.abs(pixels(a).astype(int) - pixels(b)).max() <= 1


def test_words_the_model_does_not_know(run, tmp_path, capsys):
    assert apex("sample", "a crimson box, cinematic", "--ckpt", run, "--out", tmp_path) == 0
    out, err = capsys.readouterr()
    assert "does not know 'cinematic' in 'a crimson box, cinematic'; left out" in err
    assert Image.open(out.strip()).text["prompt"] == "a red cube"


def test_the_teacher_beside_the_student(run, student, tmp_path, capsys):
    argv = ["a red cube", "--n", 2, "--compare", 4, "--ckpt", student, "--out", tmp_path]
    assert apex("sample", *argv) == 0
    out, err = capsys.readouterr()
    *_, grid = out.split()
    assert Image.open(grid).size == (4 * 66 * 2 - 4, 128)
    assert "left: teacher at 4 NFE, right: student" in err
    assert apex("sample", "a red cube", "--n", 2, "--nfe", 4, "--ckpt", run, "--out", tmp_path / "teacher") == 0
    teacher = pixels(capsys.readouterr().out.split()[1])
    assert np.array_equal(pixels(grid)[::2, 66 * 2 : 66 * 2 + 128 : 2], teacher)


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ([], 2, "There is no prompt."),
        (["a", "--nfe", 0], 2, "nfe = 0: Input should be greater than or equal to 1."),
        (["a", "--compare", 0], 2, "nfe = 0: Input should be greater than or equal to 1."),
        (["a", "--n", 0], 2, "--n"),
        (["--prompt-file", "nowhere.txt"], 3, "'nowhere.txt' does not exist"),
        (["a", "--out", "file"], 7, "file"),
        (["a", "--ckpt", "nowhere"], 8, "There is no checkpoint or run at 'nowhere'."),
        (["a", "--ckpt", "runs/nowhere"], 8, "There is no checkpoint or run at 'runs/nowhere'."),
        (["a", "--ckpt", "assets:nowhere"], 4, "No shipped model is called 'assets:nowhere'."),
    ],
)
def test_mistakes(student, tmp_path, capsys, monkeypatch, argv, code, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "runs").mkdir()
    ckpt = [] if "--ckpt" in argv else ["--ckpt", student]
    assert apex("sample", *argv, *ckpt) == code
    err = capsys.readouterr().err
    assert words in err
    assert "bug of apex" not in err
    assert (tmp_path / "file").read_text() == "mine"


def test_no_teacher_to_compare_with(run, tmp_path, capsys):
    assert apex("sample", "a", "--compare", 4, "--ckpt", run, "--out", tmp_path) == 8
    assert "does not say what it was distilled from" in capsys.readouterr().err
