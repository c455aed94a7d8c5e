"""What a run leaves out, when it refuses a set, and that it says both."""

from __future__ import annotations

import json
from pathlib import Path

import hostile
import pytest
from hostile import encoded, noise, sample, tar
from tiny_runs import apex, metrics, write_recipe

from apex_cli.data import screen
from apex_cli.data.flaws import Flaw
from apex_cli.data.folder import FolderConfig, FolderData
from apex_cli.data.shard_set import ShardSet, ShardSetConfig
from apex_cli.errors import DataError

SIDE = 16


@pytest.fixture
def pics(tmp_path) -> Path:
    """Ten samples: 3.png is cut, 7.png has no caption."""
    folder = tmp_path / "pics"
    folder.mkdir()
    for row in range(10):
        (folder / f"{row}.png").write_bytes(encoded("PNG", noise(row)))
        (folder / f"{row}.txt").write_text(f"a red cube {row}")
    (folder / "3.png").write_bytes(hostile.half(encoded("PNG", noise(3))))
    (folder / "7.txt").unlink()
    return folder


def look(data) -> list[screen.Finding]:
    return [finding for finding in screen.look(data, range(len(data))) if finding]


def test_broken_rows_are_found_and_left_out(pics):
    data = FolderData(FolderConfig(path=str(pics), max_broken=0.2), SIDE)
    found = look(data)
    assert [(row["row"], row["sample"], row["reason"]) for row in found] == [
        (3, "3.png", "picture-truncated"),
        (7, "7.png", "caption-missing"),
    ]
    kept = screen.Kept(data, [3, 7])
    assert len(kept) == 8
    assert kept.prompts([2, 3, 5, 6]) == [f"a red cube {row}" for row in (2, 4, 6, 8)]
    assert kept.pixels([3, 6]).equal(data.pixels([4, 8]))
    assert kept.fingerprint not in (data.fingerprint, screen.Kept(data, [3]).fingerprint)


def test_what_was_found_is_remembered_by_the_bytes(pics):
    data = FolderData(FolderConfig(path=str(pics), max_broken=1), SIDE)
    assert screen.recall(data) is None
    screen.remember(data, found := look(data))
    assert screen.recall(data) == found
    (pics / "3.png").write_bytes(encoded("PNG", noise(3)))
    assert screen.recall(FolderData(FolderConfig(path=str(pics), max_broken=1), SIDE)) is None


def test_a_refusal_counts_names_and_tells_what_to_do():
    broken = [(f"{n}.png", Flaw("picture-empty", "the file is empty")) for n in range(5)]
    config = FolderConfig(path="my/pics")
    screen.refuse(broken[:1], 100, config)
    with pytest.raises(DataError) as caught:
        screen.refuse(broken, 100, config)
    assert caught.value.message == (
        "5 of 100 samples in 'my/pics' are broken (5.00%; data.max_broken allows 1.00%): 0.png: the file is empty; "
        "1.png: the file is empty; 2.png: the file is empty; and 2 more."
    )
    assert "`apex data check my/pics`" in caught.value.remedy
    with pytest.raises(DataError, match="5 of 5"):
        screen.refuse(broken, 5, FolderConfig(path="my/pics", max_broken=1))


def test_shards_are_screened_by_their_index(tmp_path):
    members = (*sample("a", 1), *sample("b", 2), *sample("c", 3), *sample("d", 4))

    def damage(rows: list[dict]) -> None:
        rows[1]["shard"], rows[2]["prompt"] = "../../etc/passwd", ""

    hostile.listed(tmp_path, tar(*members), damage)
    path = tmp_path / "shard-00000.tar"
    picture = encoded("PNG", noise(4))
    path.write_bytes(path.read_bytes().replace(picture, picture[:-9] + b"altered!!"))
    data = ShardSet(ShardSetConfig(path=str(tmp_path)), SIDE)
    assert [(row["row"], row["reason"]) for row in look(data)] == [
        (1, "member-outside"),
        (2, "caption-empty"),
        (3, "altered"),
    ]
    assert data.pixels([0]).shape == (1, 3, SIDE, SIDE)
    with pytest.raises(DataError, match=r"'shard-00000\.tar/d' could not be read: has other bytes"):
        data.pixels([3])
    path.unlink()
    assert {row["reason"] for row in look(data)} == {"member-outside", "caption-empty", "shard-missing"}


def test_a_run_refuses_a_set_or_leaves_samples_out(pics, tmp_path, capsys):
    data = {"name": "folder", "path": str(pics)}
    run, recipe = tmp_path / "run", tmp_path / "mine.toml"

    def train(**keys: float) -> int:
        # `size` is a key of the scenes that the tiny recipe names.
        text = write_recipe(recipe, data=data | keys).read_text().replace("size = 32\n", "")
        recipe.write_text(text)
        return apex("train", recipe, "--out", run)

    assert train() == 3
    assert "1 of 10 samples in" in capsys.readouterr().err  # captions are known at once
    assert train(max_broken=0.1) == 3
    err = capsys.readouterr().err
    assert "2 of 10 samples in" in err
    assert "3.png: image file is truncated; 7.png: has no caption." in err
    assert f"`apex data check {pics}`" in err
    assert train(max_broken=0.2) == 0
    lines = [json.loads(line) for line in (run / "quarantine.jsonl").read_text().splitlines()]
    assert [line["sample"] for line in lines] == ["3.png", "7.png"]
    assert metrics(run)[0]["warnings"] == ["2 broken samples are left out; quarantine.jsonl names them."]
    (manifest,) = (tmp_path / "cache" / "latents").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["rows"] == 8
