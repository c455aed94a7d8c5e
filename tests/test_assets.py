"""The shipped models: whole, self-contained, and as good as they are said to be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from apex_cli.backbones.folders import ASSETS, locate, named
from apex_cli.build import SHIPPED_STUDENT, load_model, load_teacher
from apex_cli.generation import Request, generate
from apex_cli.training import checkpoint
from apex_cli.worlds.shapes.detector import detect
from apex_cli.worlds.shapes.grammar import colors
from apex_cli.worlds.shapes.scoring import judge

FOLDERS = sorted(path for path in ASSETS.iterdir() if path.is_dir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_complete_and_free_of_local_paths(folder: Path) -> None:
    checkpoint.verify(folder)
    contract = json.loads((folder / "contract.json").read_text())
    assert contract["backbone"]["config"]["path"] is None
    assert contract["base"] in (None, "assets:shapes_teacher")


def test_a_shipped_model_is_called_by_its_name_and_any_other_by_its_folder(tmp_path: Path) -> None:
    assert named(Path(locate(SHIPPED_STUDENT))) == SHIPPED_STUDENT
    assert named(tmp_path) == str(tmp_path)


def test_one_evaluation_draws_red_cubes_as_well_as_the_teacher_draws_them_with_fifty() -> None:
    student = load_model(SHIPPED_STUDENT)
    scores = {}
    for name, model, nfe in (("student", student, 1), ("teacher", load_teacher(student), 50)):
        requests = [Request("a photo of a red cube", seed) for seed in range(16)]
        samples = list(generate(model.backbone, model.sample.with_nfe(nfe), requests))
        assert {sample.nfe for sample in samples} == {nfe}
        prompt = colors("red", "cube")
        scores[name] = sum(judge(prompt, detect(sample.pixels)).correct for sample in samples) / 16
    assert scores["teacher"] > 0.8
    assert scores["student"] > 0.75 * scores["teacher"]
