"""Many pictures on disk: all of them, whole, once; and what is left when the disk refuses."""

from __future__ import annotations

import os
import resource
from mmap import mmap
from pathlib import Path

import pytest
from fake_clock import FakeClock

from apex_cli.benching.long import LongRun, file_name, missing, produce, resident, writer
from apex_cli.errors import StorageError
from apex_cli.streaming import Keeper


def batches(indices, size: int = 4):
    for start in range(0, len(indices), size):
        yield [(index, index) for index in indices[start : start + size]]


def encode(index: int) -> bytes:
    return b"%06d" % index * 100


def draw(folder: Path, count: int, encode=encode, source=batches) -> LongRun:
    wanted = missing(folder, count)
    run = LongRun(str(folder), count, count - len(wanted))
    for _ in produce(source(wanted), Keeper(folder, writer(encode)), run, FakeClock(per_look=1)):
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
    assert (run.seconds, run.images_per_second, len(run.resident)) == (1, 10, 3)


def test_what_is_there_is_not_drawn_again(tmp_path):
    draw(tmp_path, 6)
    (tmp_path / file_name(2)).unlink()
    (tmp_path / f".{file_name(3)}.partial").write_bytes(b"half")
    assert missing(tmp_path, 8) == [2, 6, 7]
    assert draw(tmp_path, 8).found == 5
    assert whole(tmp_path) == list(range(8))


def test_a_disk_that_refuses_loses_no_finished_picture(tmp_path):
    """The system itself refuses files of more than 4 KiB here, and picture 9 is larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(StorageError, match=r"File too large. 9 image\(s\) are there") as told:
            draw(tmp_path, 40, encode=lambda index: encode(index) * (1 if index < 9 else 100))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.exit_code == 7
    assert whole(tmp_path) == list(range(9))
    assert not list(tmp_path.glob(".*"))
    assert draw(tmp_path, 40).found == 9  # the same command goes on
    assert whole(tmp_path) == list(range(40))


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


def test_growth_is_of_the_last_tenth_over_the_second():
    flat = LongRun("", 1, 0, resident=[50, *[100] * 99])
    assert flat.growth == 0
    assert LongRun("", 1, 0, resident=list(range(100, 200))).growth == pytest.approx(194.5 / 114.5 - 1)


def test_memory_of_this_process_now():
    """Pages of the test's own: a bytearray may lie in what the process freed earlier and still holds."""
    before = resident()
    with mmap(-1, 64 * 2**20) as held:
        held.write(b"x" * len(held))
        assert resident() - before > 48 * 2**20
    assert resident() - before < 16 * 2**20  # not the peak
