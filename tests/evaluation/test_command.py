"""`apex eval` as a user and a script meet it, on a tiny fresh SANA that cannot draw yet and on an oracle."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apex_cli import app, build
from apex_cli.backbones.sana import Sana, SanaConfig
from apex_cli.commands import _ui
from apex_cli.generation import SampleConfig
from apex_cli.worlds.shapes.pipeline import TinySanaConfig

FEW = ["--prompts", "6", "--n", "2"]


@pytest.fixture(scope="module")
def sana() -> Sana:
    tiny = TinySanaConfig(width=32, layers=1, heads=2, text_width=32, text_layers=1, vae_channels=(8, 8, 8, 16))
    return Sana(SanaConfig(tiny=tiny, max_tokens=64))


@pytest.fixture(autouse=True)
def models(tmp_path, monkeypatch, oracle, request):
    """The runs `wrong` (an oracle for other prompts) and `fresh` (a new SANA); all others are perfect."""
    _ui.stdout.cache_clear()
    _ui.stderr.cache_clear()
    monkeypatch.chdir(tmp_path)

    def load_model(path: str) -> build.Model:
        name = path.removeprefix("assets:")
        backbone = request.getfixturevalue("sana") if name == "fresh" else oracle(shift=name == "wrong").backbone
        return build.Model(backbone, SampleConfig(), {"format": 1, "name": name}, Path(f"runs/{name}/step-000010"))

    monkeypatch.setattr(build.models, "load_model", load_model)
    monkeypatch.setattr("apex_cli.build.evaluation.checkpoint_of", lambda place, verified: Path(place))


def test_table_and_paths(capsys):
    assert app.main(["eval", *FEW]) == 0
    out, err = capsys.readouterr()
    for row in ("single_object", "overall", "kernel distance", "seed diversity", "seconds per image", "NFE, counted"):
        assert row in out
    *_, report, page = out.splitlines()
    assert report == "runs/shapes_student/evals/shapes_student-step-000010-iid-nfe1-seed0-6prompts-n2/report.json"
    assert Path(page).is_file()
    assert "shapes_student" in err


def test_a_fresh_model_scores_nothing(capsys):
    assert app.main(["eval", "--ckpt", "fresh", *FEW, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["evaluations"][0]["results"]["shapes"]["overall"]["score"] <= 0.2
    assert document["evaluations"][0]["nfe_counted"] == 1


def test_several_nfe_and_another_model(capsys):
    argv = ["eval", "--ckpt", "perfect", "--nfe", "1", "--nfe", "2", "--compare", "wrong", "--out", "e", *FEW, "--json"]
    assert app.main(argv) == 0
    document = json.loads(capsys.readouterr().out)
    assert [e["nfe_counted"] for e in document["evaluations"]] == [1, 2, 1]
    assert document["evaluations"][0]["results"]["shapes"]["overall"]["score"] == 1
    assert len(document["comparisons"]) == 2
    assert document["comparisons"][0]["overall"]["difference"] > 0.5
    assert all(Path(item["gallery"]).is_file() for item in document["evaluations"] + document["comparisons"])


def test_compare_with_a_folder(capsys):
    assert app.main(["eval", "--ckpt", "wrong", "--out", "e", *FEW]) == 0
    folder = next(Path("e").iterdir())
    assert app.main(["eval", "--ckpt", "perfect", "--compare", str(folder), *FEW]) == 0
    assert "won" in capsys.readouterr().out
    assert app.main(["eval", "--ckpt", "perfect", "--compare", str(folder), *FEW, "--seed", "1"]) == 2
    out, err = capsys.readouterr()
    assert "seed (1 and 0)" in err
    assert "single_object" in out, "the numbers are there all the same"


def test_what_cannot_be_compared_with_is_told_before_anything_is_drawn(capsys, monkeypatch):
    monkeypatch.undo()
    assert app.main(["eval", "--compare", "nope", *FEW]) == 2
    assert "--compare nope: neither a finished evaluation nor a model" in capsys.readouterr().err


def test_gate(capsys):
    assert app.main(["eval", *FEW, "--min-overall", "0.9"]) == 0
    assert app.main(["eval", "--ckpt", "wrong", *FEW, "--min-overall", "0.9"]) == 9
    assert "is below 0.9" in capsys.readouterr().err
    assert app.main(["eval", "--ckpt", "wrong", *FEW, "--min-overall", "0.9", "--json"]) == 9
    (told,) = json.loads(capsys.readouterr().out)["below"]
    assert told.startswith("wrong-step-000010 1 NFE, shapes 0.")


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (["--split", "idd"], "--set shapes.split"),
        (["--nfe", "0"], "nfe = 0"),
        (["--nfe", "1", "--guidance", "4"], "set nfe = 2"),
        (["--sampler", "ddim"], "sampler = ddim: Input should be 'euler', 'heun' or 'renoise'"),
        (["--suite", "shape"], "shapes"),
        (["--n", "0"], "--n"),
    ],
    ids=str,
)
def test_mistakes_are_told(wrong, told, capsys):
    assert app.main(["eval", *FEW, *wrong]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
