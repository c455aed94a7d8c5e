"""Latents on disk: the same files whoever encodes them, and nothing finished is lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from apex_cli.data import latents, store
from apex_cli.data.latents import Latents
from apex_cli.data.shapes import ShapesConfig, ShapesData
from apex_cli.errors import StorageError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Shards of 8 rows, encoded 4 at a time."""
    monkeypatch.setattr(latents, "IMAGES", 4)
    monkeypatch.setattr(latents, "ROWS", 8)


@pytest.fixture
def made(sana, scenes) -> Latents:
    return Latents(sana, scenes, CPU, {"data": "shapes"})


def encode_all(made: Latents, ranks: int = 1) -> list[int]:
    """What a run does, one rank after the other; returns how many rows were encoded by each."""
    made.store.begin()
    missing = made.missing()
    counts = [max([0, *(done for done, _ in made.encode(missing[rank::ranks]))]) for rank in range(ranks)]
    made.store.finish()
    made.open()
    return counts


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_are_what_the_autoencoder_says(made, sana, scenes):
    assert encode_all(made) == [23]
    rows = torch.tensor([22, 0, 9, 9])
    with torch.no_grad():
        expected = sana.encode_images(scenes.pixels(rows.tolist()))
    torch.testing.assert_close(made[rows], expected)
    assert [path.name for path in made.store.shards()] == [
        "00000.safetensors",
        "00001.safetensors",
        "00002.safetensors",
    ]


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_number_of_ranks_changes_no_byte(made, ranks, tmp_path, monkeypatch):
    encode_all(made)
    alone = files(made.store.folder)
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "other"))
    assert sum(encode_all(made, ranks)) == 23
    assert files(made.store.folder) == alone


def test_a_killed_run_goes_on_with_the_missing_shards(made, sana, scenes):
    made.store.begin()
    for done, total in made.encode(made.missing()):
        assert total == 23
        if done == 12:
            break  # in the middle of the second shard
    kept = made._path(0).stat().st_mtime_ns
    again = Latents(sana, scenes, CPU, {})
    with pytest.raises(StorageError, match=r"00001\.safetensors' is not there"):
        again.open()
    assert encode_all(again) == [15]
    assert made._path(0).stat().st_mtime_ns == kept
    assert encode_all(Latents(sana, scenes, CPU, {})) == [0]


def test_a_truncated_shard_is_made_again(made, sana, scenes):
    encode_all(made)
    whole = files(made.store.folder)
    made._path(1).write_bytes(whole["00001.safetensors"][:-9])
    assert encode_all(Latents(sana, scenes, CPU, {"data": "shapes"})) == [8]
    assert files(made.store.folder) == whole


def test_what_the_key_depends_on(made, sana, scenes, monkeypatch):
    key = made.store.key
    assert Latents(sana, ShapesData(ShapesConfig(size=24)), CPU, {}).store.key != key
    assert Latents(sana, scenes, CPU, {"data": "another name"}).store.key == key
    weight = next(sana.autoencoder.parameters())
    before = weight.clone()
    weight.data.view(-1)[0] += 1
    assert Latents(sana, scenes, CPU, {}).store.key != key
    weight.data.copy_(before)
    monkeypatch.setattr(sana.autoencoder, "_internal_dict", dict(sana.autoencoder.config) | {"scaling_factor": 3.0})
    assert Latents(sana, scenes, CPU, {}).store.key != key


def test_large_images_come_in_small_batches(sana):
    large = ShapesData(ShapesConfig(size=2, resolution=2048))
    assert Latents(sana, large, CPU, {}).batch == 1


@pytest.mark.parametrize(
    ("settings", "folder"),
    [
        ({"APEX_CACHE": "/a", "HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/a"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x"}, "/h/apex"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/apex"),
        ({"HOME": "/home/me"}, "/home/me/.cache/apex"),
    ],
)
def test_where_the_cache_lies(settings, folder, monkeypatch):
    for name in ("APEX_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert store.cache_folder() == Path(folder)
