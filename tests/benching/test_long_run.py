"""Many pictures on disk: all of them, whole, once; and what is left when the disk refuses."""

from __future__ import annotations

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
from fake_clock import FakeClock

from apex_cli.benching.long import LongRun, file_name, missing, produce, writer
from apex_cli.errors import StorageError
from apex_cli.generation import chunks
from apex_cli.streaming import Keeper


def batches(indices, size: int = 4):
    for some in chunks(indices, size):
        yield [(index, index) for index in some]


def encode(index: int) -> bytes:
    return b"%06d" % index * 100


def draw(folder: Path, count: int, encode=encode, source=batches) -> LongRun:
    wanted = missing(folder, count)
    run = LongRun(str(folder), count, count - len(wanted))
    for _ in produce(source, wanted, Keeper(folder, writer(encode)), run, FakeClock(per_look=1)):
        pass
    return run


def whole(folder: Path) -> list[int]:
    """Pictures that are there, each of them whole."""
    files = sorted(folder.glob("*.png"))
    assert all(file.read_bytes() == encode(int(file.stem)) for file in files)
    return [int(file.stem) for file in files]


def test_all_are_there_and_nothing_else(tmp_path):
    run = draw(tmp_path, 10)
    assert whole(tmp_path) == list(range(10))
    assert len(list(tmp_path.iterdir())) == 10
    assert (run.seconds, run.images_per_second) == (1, 10)
    assert [done for done, _ in run.memory.curve] == [4, 8, 10]


def test_what_is_there_is_not_drawn_again(tmp_path):
    draw(tmp_path, 6)
    (tmp_path / file_name(2)).unlink()
    (tmp_path / f".{file_name(3)}.partial").write_bytes(b"half")
    assert missing(tmp_path, 8) == [2, 6, 7]
    again = draw(tmp_path, 8)
    assert (again.found, [done for done, _ in again.memory.curve]) == (5, [3])
    assert whole(tmp_path) == list(range(8))


@contextmanager
def small_files(limit: int):
    """The system itself refuses larger files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_refuses_one_file_keeps_the_others_and_says_so(tmp_path, monkeypatch):
    """Picture 9 is too large, for the refuge too."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    with small_files(4096), pytest.raises(StorageError, match=r"File too large. \d+ image\(s\) are there") as told:
        draw(tmp_path, 400, encode=lambda index: encode(index) * (100 if index == 9 else 1))
    assert told.value.exit_code == 7 and "1 could be written nowhere" in told.value.message
    there = whole(tmp_path)
    assert 9 not in there and {*range(9), 10, 11} <= set(there)
    assert len(there) < 40  # no new one was begun
    assert not list(tmp_path.glob(".*"))
    assert draw(tmp_path, 400).found == len(there)  # the same command goes on
    assert whole(tmp_path) == list(range(400))


def test_every_picture_that_was_finished_lies_somewhere(tmp_path, monkeypatch):
    """The folder becomes a file after the first batch: pictures that are on their way by then go to the refuge."""
    refuge, folder, finished = tmp_path / "refuge", tmp_path / "out", []
    refuge.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(refuge))

    def source(indices):
        for batch in batches(indices):
            if batch[0][0] == 8:
                folder.rename(tmp_path / "moved")
                folder.write_text("in the way")
            yield batch
            finished.extend(index for index, _ in batch)

    with pytest.raises(StorageError, match=r"Not a directory. \d+ image\(s\) are there, \d+ finished after that in"):
        draw(folder, 400, source=source)
    rescued = [index for found in refuge.iterdir() for index in whole(found)]
    assert len(finished) < 40 and rescued
    assert sorted(whole(tmp_path / "moved") + rescued) == finished


def test_drawing_that_fails_keeps_what_was_written(tmp_path):
    def broken(indices):
        yield [(0, 0), (1, 1)]
        raise MemoryError

    with pytest.raises(MemoryError):
        draw(tmp_path, 9, source=broken)
    assert whole(tmp_path) == [0, 1] and not list(tmp_path.glob(".*"))


def test_a_folder_that_cannot_be_used_is_told_before_anything_is_drawn(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="no picture was drawn"):
        missing(tmp_path / "file", 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_the_right_to_write(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(StorageError, match="Permission denied"):
        missing(tmp_path, 3)


def test_a_run_that_found_everything_has_no_memory_to_tell_of():
    assert LongRun("", 5, 5).record()["memory"] is None
