"""FSDP over two gloo ranks: numbers and files are those of one process, which goes on where they stopped, and back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tomli_w
from ranks import on_two_ranks
from safetensors.torch import load_file
from tiny_runs import APEX, DEFAULTS, LORA, TINY, apex, metrics, write_recipe

PICTURES = {
    "backbone": {"name": "sana", "tiny": TINY | {"layers": 2}, "max_tokens": 64},
    "data": DEFAULTS["data"],
}
TRAIN = DEFAULTS["train"] | {"sharding": "fsdp", "sample_every": 2}
SHIFT = {"condition_shift": {"kind": "low_rank", "learned": True, "rank": 2}}
RUNS = {
    # A copy that follows the average, learned tensors beside the shards, two forwards before a backward.
    "full": PICTURES
    | {
        "objective": APEX | {"real": "ema"} | SHIFT,
        "train": TRAIN | {"ema": 0.5, "micro_batch": 2, "gradient_checkpointing": 1.0},
    },
    "lora": PICTURES | {"objective": APEX, "train": TRAIN | LORA | {"ema": 0.9}},
    "bf16": PICTURES | {"objective": APEX, "train": TRAIN | {"precision": "bf16", "steps": 2}},
    # 33 rows cannot be halved.
    "odd": {
        "backbone": {"name": "mlp", "width": 33},
        "objective": {"name": "fm"},
        "data": {"name": "modes", "size": 64},
        "train": TRAIN,
    },
}
TOLERANCE = {"bf16": 1e-3}


def losses(run: Path) -> np.ndarray:
    return np.array([[record["loss"], record["grad_norm"]] for record in metrics(run)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Callable[[], Path]:
    """`runs()`: RECIPE.toml, and folders `one/RECIPE` by one process, `two/RECIPE` by two ranks, `on/RECIPE` where the
    two continue what one began."""

    @cache
    def made() -> Path:
        folder = tmp_path_factory.mktemp("sharding")
        for name, sections in RUNS.items():
            (folder / f"{name}.toml").write_text(tomli_w.dumps({"name": name} | sections))
            assert apex("train", folder / f"{name}.toml", "--out", folder / "one" / name) == 0
        for name in ("full", "lora"):
            shutil.copytree(folder / "one" / name, folder / "on" / name)
            shutil.rmtree(folder / "on" / name / "step-000004")
        runs = [*((name, "two") for name in RUNS), ("full", "on"), ("lora", "on")]
        commands = [["train", folder / f"{name}.toml", "--out", folder / to / name] for name, to in runs]
        told = on_two_ranks("two_ranks.py", commands)
        (folder / "told").write_text(told)
        return folder

    return made


@pytest.mark.dist
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_equal_one_process(runs, name):
    folder = runs()
    expected = losses(folder / "one" / name)
    np.testing.assert_allclose(losses(folder / "two" / name), expected, rtol=TOLERANCE.get(name, 1e-5))


@pytest.mark.dist
@pytest.mark.timeout(1800)
def test_each_rank_keeps_half(runs):
    """Two networks of `full` and `bf16`: v_real is a copy. Adapters stay whole."""
    shares = [float(line.split()[1]) for line in (runs() / "told").read_text().splitlines() if "sharded: " in line]
    assert len(shares) == 2 * (2 + 1 + 2 + 1 + 2 + 1)
    assert all(0.45 < share < 0.75 for share in shares)


@pytest.mark.dist
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["full", "lora"])
def test_one_process_goes_on_where_two_ranks_stopped(runs, tmp_path, name):
    folder = runs()
    shutil.copytree(folder / "two" / name, tmp_path / name)
    shutil.rmtree(tmp_path / name / "step-000004")
    assert apex("train", folder / f"{name}.toml", "--out", tmp_path / name) == 0
    np.testing.assert_allclose(losses(tmp_path / name), losses(folder / "one" / name), rtol=1e-5)


@pytest.mark.dist
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["full", "lora"])
def test_two_ranks_go_on_where_one_process_stopped(runs, name):
    folder = runs()
    np.testing.assert_allclose(losses(folder / "on" / name), losses(folder / "one" / name), rtol=1e-5)


@pytest.mark.dist
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["full", "lora", "odd"])
def test_a_checkpoint_has_the_form_of_one_process(runs, name):
    one, two = (runs() / kind / name / "step-000004" for kind in ("one", "two"))
    files = {path.relative_to(one) for path in one.rglob("*")}
    assert files == {path.relative_to(two) for path in two.rglob("*")}
    for file in files:
        if file.suffix == ".safetensors":
            mine, theirs = load_file(one / file), load_file(two / file)
            assert mine.keys() == theirs.keys()
            for key, value in mine.items():
                np.testing.assert_allclose(theirs[key], value, atol=1e-4, err_msg=f"{file} {key}")
        elif file.name in ("config.json", "contract.json", "state.json"):
            assert (one / file).read_text() == (two / file).read_text()


def test_only_a_transformer_is_sharded(tmp_path, capsys):
    sections = {"objective": {"name": "reconstruction"}, "train": {"sharding": "fsdp"}}
    assert apex("train", write_recipe(tmp_path / "run.toml", **sections), "--out", tmp_path / "run") == 2
    assert "trains the autoencoder; only a transformer can be sharded" in capsys.readouterr().err
