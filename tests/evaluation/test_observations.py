"""What stages said: kept by content, question and judge; arrays come back, errors are asked again."""

from __future__ import annotations

import json
import threading
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apex_cli.errors import StorageError
from apex_cli.evaluation.base import Item, Picture
from apex_cli.evaluation.ledger import Ledger, Shard, read
from apex_cli.evaluation.observations import observe, open_stores


class Stage:
    """Says the mean of a picture, and how often it was asked."""

    uses: tuple[str, ...] = ()
    batch = 2

    def __init__(self, name: str = "features", version: int = 1, uses: tuple[str, ...] = (), asks: str = ""):
        self.name, self.identity, self.uses, self.asks = name, {"version": version}, uses, asks
        self.asked: list[str] = []
        self.before: list[dict] = []

    def question(self, item: Item) -> str:
        return getattr(item, self.asks) if self.asks else ""

    def open(self) -> None:
        self.opened = True

    def prepare(self, picture):
        return picture.pixels().mean((0, 1)).astype(np.float32)

    def observe(self, pictures, prepared, before):
        self.asked += [picture.item.id for picture in pictures]
        self.before.append(dict(before))
        return [{"row": row, "k": p.k, "id": p.item.id} for p, row in zip(pictures, prepared, strict=True)]


@pytest.fixture
def pictures(tmp_path) -> list[Picture]:
    found = []
    for i in range(5):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (4, 4), (i, 0, 2 * i)).save(path)
        found.append(Picture(Item(str(i), "t", f"prompt {i}"), 0, path, f"sha{i}", (4, 4)))
    return found


def look(folder: Path, pictures, *stages: Stage):
    stores = open_stores(folder, stages)
    return stores, list(observe(stores, pictures))


def test_arrays_and_json_come_back_in_another_process(pictures, tmp_path):
    _, events = look(tmp_path, pictures, Stage())
    assert events == [("features", 2, 5), ("features", 4, 5), ("features", 5, 5)]
    stores = open_stores(tmp_path, [Stage()])
    for i, picture in enumerate(pictures):
        said = stores["features"][picture]
        assert (said["k"], said["id"]) == (0, str(i))
        assert said["row"].dtype == np.float32
        assert said["row"].tolist() == [i, 0, 2 * i]


def test_nothing_is_asked_twice(pictures, tmp_path):
    look(tmp_path, pictures[:3], Stage())
    again = Stage()
    look(tmp_path, pictures, again)
    assert again.asked == ["3", "4"]
    idle = Stage()
    look(tmp_path, pictures, idle)
    assert idle.asked == []
    assert not hasattr(idle, "opened")


def test_equal_pictures_share_an_observation_unless_the_question_differs(pictures, tmp_path):
    look(tmp_path, pictures, Stage())
    twin = replace(pictures[0], item=Item("twin", "t", "another prompt"))
    stage, asking = Stage(), Stage("answers", asks="prompt")
    look(tmp_path, [twin], stage)
    look(tmp_path, [pictures[0], twin], asking)
    assert stage.asked == []
    assert asking.asked == ["0", "twin"]


def test_another_version_or_another_stage_below_is_another_judge(pictures, tmp_path):
    look(tmp_path, pictures[:2], Stage("detections"), Stage("answers", uses=("detections",)))
    newer, above = Stage("detections", version=2), Stage("answers", uses=("detections",))
    look(tmp_path, pictures[:2], newer, above)
    assert newer.asked == above.asked == ["0", "1"]
    assert [row["id"] for row in above.before[0]["detections"]] == ["0", "1"]


def test_half_a_line_of_a_kill_is_asked_again(pictures, tmp_path):
    stores, _ = look(tmp_path, pictures, Stage())
    path = stores["features"].ledger.path
    whole = path.read_text()
    path.write_text(whole[:-9])
    again = Stage()
    stores, _ = look(tmp_path, pictures, again)
    assert again.asked == ["4"]
    assert [stores["features"][picture]["id"] for picture in pictures] == ["0", "1", "2", "3", "4"]
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == [
        json.loads(line)["key"] for line in whole.splitlines()
    ]


def test_an_error_never_hides_what_was_said(pictures, tmp_path):
    """`rows.jsonl`, of a run before, is read after the files of workers."""
    key = open_stores(tmp_path, [Stage()])["features"].key(pictures[0])
    folder = open_stores(tmp_path, [Stage()])["features"].folder
    Ledger(folder, "rows").append({"key": key, "said": {"error": "no answer"}, "arrays": None})
    assert open_stores(tmp_path, [Stage()])["features"].failed(pictures[0]) == "no answer"
    Ledger(folder, "rows", Shard(0, 2)).append({"key": key, "said": {"k": 0}, "arrays": None})
    store = open_stores(tmp_path, [Stage()])["features"]
    assert store.failed(pictures[0]) == "" and store[pictures[0]] == {"k": 0}


def test_a_lost_file_of_arrays_is_told(pictures, tmp_path):
    stores, _ = look(tmp_path, pictures, Stage())
    for part in stores["features"].folder.glob("*.safetensors"):
        part.unlink()
    with pytest.raises(StorageError, match="gone or damaged"):
        open_stores(tmp_path, [Stage()])["features"][pictures[0]]


def test_workers_write_files_of_their_own(tmp_path):
    first, second = (Ledger(tmp_path, "rows", Shard(i, 2)) for i in range(2))
    places = [*first.append({"a": 1}), *second.append({"a": 2}, {"a": 3}), *first.append({"a": 4, "\u03c3": "\u03c3"})]
    assert [read(place)["a"] for place in places] == [1, 2, 3, 4]
    assert sorted(places) == [place for place, _ in Ledger(tmp_path, "rows").placed()]
    assert sorted(row["a"] for row in Ledger(tmp_path, "rows")) == [1, 2, 3, 4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows-1-of-2.jsonl", "rows-2-of-2.jsonl"]


class Masks(Stage):
    """Says 4,000 numbers of every picture, some 140 kB in memory."""

    def observe(self, pictures, prepared, before):
        return [{"mask": list(range(1000 * int(p.item.id), 1000 * int(p.item.id) + 4000))} for p in pictures]


def test_what_was_said_lies_on_disk_and_not_in_memory(pictures, tmp_path):
    look(tmp_path, pictures[:1], Masks())  # what is imported only now does not count
    tracemalloc.start()
    try:
        stores, _ = look(tmp_path, pictures, Masks())
        reopened = open_stores(tmp_path, [Masks()])
        assert tracemalloc.get_traced_memory()[0] < 100_000
    finally:
        tracemalloc.stop()
    for store in (stores["features"], reopened["features"]):
        assert [store[picture]["mask"][0] for picture in pictures] == [0, 1000, 2000, 3000, 4000]


class Watched(Stage):
    """Looks at a batch only once all of the next one is prepared, and counts what is prepared and not yet looked at."""

    def __init__(self, last: int):
        super().__init__()
        self.last, self.held, self.most = last, 0, 0
        self.changed = threading.Condition()
        self.ready: set[int] = set()

    def prepare(self, picture):
        with self.changed:
            self.ready.add(int(picture.item.id))
            self.held += 1
            self.most = max(self.most, self.held)
            self.changed.notify_all()
        return super().prepare(picture)

    def observe(self, pictures, prepared, before):
        first = int(pictures[-1].item.id) + 1
        following = set(range(first, min(first + self.batch, self.last)))
        with self.changed:
            assert self.changed.wait_for(lambda: following <= self.ready, timeout=60), "nothing is prepared meanwhile"
            self.held -= len(pictures)
        return super().observe(pictures, prepared, before)


@pytest.mark.parametrize("batch", [1, 2])
def test_the_next_batch_is_prepared_meanwhile_and_no_more(pictures, tmp_path, batch):
    stage = Watched(len(pictures))
    stage.batch = batch
    look(tmp_path, pictures, stage)
    assert stage.asked == ["0", "1", "2", "3", "4"]
    assert stage.most <= 2 * batch


def test_what_cannot_be_prepared_is_an_error_of_that_picture_alone(pictures, tmp_path):
    whole = pictures[1].path.read_bytes()
    for broken in (pictures[1], pictures[2], pictures[3]):
        broken.path.write_bytes(b"no picture")
    stores, events = look(tmp_path, pictures, stage := Stage(), Stage("answers", uses=("features",)))
    assert stage.asked == ["0", "4"]
    assert events[2] == ("features", 5, 5)
    assert [bool(stores["features"].failed(p)) for p in pictures] == [False, True, True, True, False]
    assert "cannot be decoded" in stores["features"].failed(pictures[1])
    pictures[1].path.write_bytes(whole)
    stores, _ = look(tmp_path, pictures, again := Stage())
    assert again.asked == ["1"], "and what is still broken is tried again"
    assert stores["features"][pictures[1]]["row"].tolist() == [1, 0, 2]
