"""Several sets as one: recipes, rows, caches, and runs that see the same samples however they are cut or shared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tomli_w
from picture_sets import folder, numbers, picture, write_parquet
from pyarrow import parquet
from tiny_runs import DEFAULTS, apex, metrics

from apex_cli import build, recipe
from apex_cli.data.pools import pools
from apex_cli.errors import UsageError
from apex_cli.training.inputs import Inputs
from apex_cli.training.schedule import Order

ROOT = Path(__file__).resolve().parents[2]
TRAIN = {"steps": 6, "batch": 4, "micro_batch": 1, "save_every": 3}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> list[dict[str, Any]]:
    """Pictures 0 to 6 in a folder with weight 3, 7 to 11 in Parquet with weight 1; both in buckets."""
    place = tmp_path_factory.mktemp("sources")
    return [
        {"name": "folder", "path": str(folder(place / "mine", range(7))), "weight": 3.0, "crop": "buckets"},
        {"name": "parquet", "path": str(write_parquet(place / "a.parquet", range(7, 12))), "crop": "buckets"},
    ]


def write(file: Path, sources: list[dict[str, Any]], **train: Any) -> Path:
    """A recipe of a mixture."""
    data = {"name": "mixture", "sources": sources}
    file.write_text(tomli_w.dumps({"name": "mine"} | DEFAULTS | {"data": data, "train": DEFAULTS["train"] | train}))
    return file


def mixture(tmp_path: Path, sources: list[dict[str, Any]]) -> Any:
    data = build.data(recipe.load(write(tmp_path / "rows.toml", sources)))
    data.align(16)
    return data


def centred(sources: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in source.items() if key != "crop"} for source in sources]


def test_rows_lie_one_set_behind_the_other(tmp_path, sources):
    data = mixture(tmp_path, centred(sources))
    assert len(data) == 12
    rows = [11, 0, 7, 6, 6]
    assert data.prompts(rows) == [f"caption {row}" for row in rows]
    assert numbers(data.pixels(rows)) == rows
    assert [(pool.rows.tolist(), pool.weight) for pool in pools(data)] == [(list(range(7)), 3), (list(range(7, 12)), 1)]


def test_buckets_of_several_sets(tmp_path, sources):
    data = mixture(tmp_path, sources)
    assert sorted(row for pool in pools(data) for row in pool.rows.tolist()) == list(range(12))
    weights = Counter()
    for pool in pools(data):
        weights[bool(pool.rows[0] >= 7)] += pool.weight
        width, height = pool.size or (0, 0)
        assert data.pixels(pool.rows.tolist()).shape[2:] == (height, width)
    assert weights == pytest.approx({False: 3, True: 1})


def test_weights_do_not_change_what_is_encoded(tmp_path, sources):
    first = mixture(tmp_path, sources)
    heavier = mixture(tmp_path, [sources[0] | {"weight": 9}, sources[1]])
    assert heavier.fingerprint == first.fingerprint
    assert mixture(tmp_path, sources[:1]).fingerprint != first.fingerprint


def test_a_recipe_of_a_mixture(tmp_path, sources):
    file = write(tmp_path / "mine.toml", sources)
    read = recipe.load(file)
    assert recipe.parse(read.to_toml(), "again.toml").fingerprint == read.fingerprint
    assert read.sections()["data"]["sources"][1]["weight"] == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"pth": "x"}, "data.sources.0.pth: unknown key"),
        ({"name": "floder"}, "Did you mean 'folder'?"),
        ({"name": "modes"}, "'name' must be one of"),
        ({"weight": 0}, "data.sources.0.weight: must be greater than 0, got 0"),
        ({"crop": "top"}, "data.sources.0.crop: needs 'centre' or 'buckets'"),
    ],
)
def test_mistakes_in_a_source(tmp_path, sources, change, words):
    file = write(tmp_path / "mine.toml", [sources[0] | change, sources[1]])
    with pytest.raises(UsageError) as caught:
        recipe.load(file)
    assert words in caught.value.message
    with pytest.raises(UsageError, match="'name' is missing"):
        recipe.load(write(file, [{"path": "x"}]))


@pytest.fixture
def ids(monkeypatch) -> list[list[int]]:
    """The rows of every micro-batch."""
    seen: list[list[int]] = []
    batch = Inputs.batch

    def recorded(self, rows):
        seen.append(rows)
        return batch(self, rows)

    monkeypatch.setattr(Inputs, "batch", recorded)
    return seen


def test_a_run_sees_the_same_samples_when_it_is_resumed(tmp_path, sources, ids, capsys):
    file = write(tmp_path / "mine.toml", sources, **TRAIN)
    assert apex("train", file, "--plan", "--json") == 0
    assert json.loads(capsys.readouterr().out)["disk"]["latent cache"] == 4 * 12 * 8 * 8 * 8
    assert apex("train", file, "--out", tmp_path / "run") == 0
    whole, expected = list(ids), metrics(tmp_path / "run")
    assert len(whole) == 24
    data = mixture(tmp_path, sources)
    order = Order(pools(data), batch=4, seed=0)
    assert [row for rows in whole for row in rows] == np.concatenate([order.rows(step) for step in range(6)]).tolist()
    assert len(list((tmp_path / "cache" / "latents").iterdir())) == 2  # one for each source
    shutil.rmtree(tmp_path / "run" / "step-000006")
    ids.clear()
    assert apex("train", file, "--out", tmp_path / "run") == 0
    assert ids == whole[12:]
    assert _losses(metrics(tmp_path / "run")) == _losses(expected)


def test_broken_samples_of_a_source_are_left_out_of_it(tmp_path, sources, ids, capsys):
    """A share of 1 in 5 is refused in one source, however many samples the others have, and can be allowed there."""
    images = [picture(number) for number in range(4)] + [picture(4)[:60]]
    table = {"image": images, "text": [f"caption {number}" for number in range(5)]}
    parquet.write_table(pa.table(table), tmp_path / "b.parquet")
    broken = {"name": "parquet", "path": str(tmp_path / "b.parquet"), "crop": "buckets"}
    file = write(tmp_path / "mine.toml", [broken, *sources], **TRAIN | {"steps": 4})
    assert apex("train", file, "--out", tmp_path / "run") == 3
    assert "1 of 5 samples in" in capsys.readouterr().err
    write(file, [broken | {"max_broken": 0.2}, *sources], **TRAIN | {"steps": 4})
    assert apex("train", file, "--out", tmp_path / "run") == 0
    (line,) = (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()
    found = json.loads(line)
    assert (found["path"], found["row"], found["reason"]) == (broken["path"], 4, "picture-truncated")
    assert {row for rows in ids for row in rows} <= set(range(16))


def _losses(records: list[dict[str, Any]]) -> list[float]:
    return [record["loss"] for record in records]


def test_accumulation_over_a_bucket_equals_one_batch(tmp_path, sources):
    for name, micro in (("parts", 1), ("whole", 4)):
        file = write(tmp_path / f"{name}.toml", sources, **TRAIN | {"micro_batch": micro, "steps": 3})
        assert apex("train", file, "--out", tmp_path / name) == 0
    np.testing.assert_allclose(_losses(metrics(tmp_path / "parts")), _losses(metrics(tmp_path / "whole")), rtol=3e-6)


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timeout(1800)
def test_two_ranks_see_what_one_sees(tmp_path, sources):
    file = write(tmp_path / "mine.toml", sources, **TRAIN)
    assert apex("train", file, "--out", tmp_path / "one") == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
               "-m", "apex_cli.app", "train", file, "--out", tmp_path / "two"]  # fmt: skip
    cold = os.environ | {"APEX_CACHE": str(tmp_path / "cold")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=cold)
    assert done.returncode == 0, done.stderr
    np.testing.assert_allclose(_losses(metrics(tmp_path / "two")), _losses(metrics(tmp_path / "one")), rtol=1e-5)
