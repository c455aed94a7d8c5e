"""What a run draws of itself: the teacher's grid is there once, and only as long as it is of the same requests."""

from __future__ import annotations

import pytest
from tiny_runs import TINY

from apex_cli import registry
from apex_cli.generation import SampleConfig
from apex_cli.training.grids import PointGrid, SampleGrid
from apex_cli.training.settings import TrainConfig

TEACHER = SampleConfig(sampler="euler", nfe=2)
SETTINGS = {"steps": 4, "sample_seeds": 2, "sample_prompts": ("a red cube",)}


def backbone(name: str, **settings):
    kind = registry.resolve("backbone", name)
    return kind(kind.Config(**settings))


@pytest.mark.parametrize("changes", [{"sample_prompts": ("a blue star",)}, {"sample_seeds": 3}])
def test_a_teacher_of_other_requests_is_no_measure(tmp_path, changes):
    model, samples = backbone("sana", tiny=TINY, max_tokens=64), tmp_path / "samples"
    grid = SampleGrid(SampleConfig(), TEACHER, TrainConfig(**SETTINGS), tmp_path)
    grid(model, 0)
    assert {"diversity", "teacher_diversity"} == grid(model, 2).keys()
    changed = SampleGrid(SampleConfig(), TEACHER, TrainConfig(**SETTINGS | changes), tmp_path)
    assert {"diversity"} == changed(model, 4).keys()
    assert sorted(path.name for path in samples.iterdir()) == [f"step-00000{step}.png" for step in (0, 2, 4)]


def test_another_number_of_points(tmp_path):
    model = backbone("mlp", width=16)
    for seeds, step in ((4, 0), (6, 2)):
        PointGrid(SampleConfig(), TEACHER, TrainConfig(**SETTINGS | {"sample_seeds": seeds}), tmp_path)(model, step)
    assert (tmp_path / "samples" / "step-000002.png").is_file()
