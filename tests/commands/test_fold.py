"""`apex sample --fast` and `apex ckpt fold`: the pictures of the plain run, and refusals that name the way out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_runs import APEX, LORA, apex


@pytest.fixture
def student(once, capsys) -> Path:
    run = once("student", backbone={"path": str(once("plain"))}, objective=APEX, train=LORA)
    capsys.readouterr()
    return run


def drawn(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path)).astype(int) for path in sorted(folder.glob("*.png"))]


def draw(ckpt: Path, out: Path, *flags: object) -> list[np.ndarray]:
    prompts = ["a red cube", "a photo of two blue stars", "a red cube"]
    assert apex("sample", *prompts, "--batch", 2, "--ckpt", ckpt, "--out", out, *flags) == 0
    return drawn(out)


def test_fast_plain_and_folded_draw_the_same(student, tmp_path, capsys):
    expected = draw(student, tmp_path / "plain", "--plain", "--nfe", 2)
    capsys.readouterr()
    assert apex("ckpt", "fold", student, tmp_path / "folded", "--nfe", 2, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["foldings"] == ["lora", "modulation", "projections", "channels", "prefix"]
    assert told["times"] == [1.0, 0.6]
    assert told["difference"] <= 1e-5
    for name, ckpt in (("fast", student), ("again", tmp_path / "folded")):
        for a, b in zip(expected, draw(ckpt, tmp_path / name, "--fast", "--nfe", 2), strict=True):
            assert np.abs(a - b).max() <= 1
    contract = json.loads((tmp_path / "folded" / "contract.json").read_text())
    assert contract["folded"]["of"]
    assert not any("img_mod" in name.name for name in (tmp_path / "folded").rglob("*"))


def test_what_a_folded_model_refuses(student, tmp_path, capsys):
    folded = tmp_path / "folded"
    assert apex("ckpt", "fold", student, folded) == 0
    for argv, code, words in (
        (["sample", "a", "--ckpt", folded, "--nfe", 4], 2, "folded at the noise levels 1, and NFE 4 asks at"),
        (["sample", "a", "--ckpt", folded, "--plain"], 2, "is folded; there is no plain one in it"),
        (["ckpt", "fold", folded, tmp_path / "twice"], 2, "is folded already"),
        (["ckpt", "export", folded, tmp_path / "export"], 2, "is folded, for drawing alone"),
        (["sample", "a", "--ckpt", student, "--plain", "--compile"], 2, "--compile is for the fast path"),
    ):
        capsys.readouterr()
        assert apex(*argv, *(["--out", tmp_path / "out"] if argv[0] == "sample" else [])) == code
        assert words in capsys.readouterr().err
    (weights,) = (folded / "vae").glob("*.safetensors")
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert apex("sample", "a", "--ckpt", folded, "--out", tmp_path / "out") == 8
    assert "SHA-256 differs" in capsys.readouterr().err


def test_an_image_that_cannot_be_written_is_kept_elsewhere(student, tmp_path, capsys, monkeypatch):
    """A folder stands where the second file belongs."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    out = tmp_path / "out"
    (out / f"0001-a-blue-star-s0-0-nfe1-{student.name}-step-000004.png" / "occupied").mkdir(parents=True)
    assert apex("sample", "a red cube", "a blue star", "--ckpt", student, "--out", out) == 7
    err = capsys.readouterr().err
    assert "1 image(s) are there, 1 finished after that in" in err
    assert len(list(tmp_path.rglob("apex-rescued-*/*.png"))) == 1
    assert not list(tmp_path.rglob("*.partial"))
