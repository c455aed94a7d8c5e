"""All stages at once: the same images in the same order, errors where they are taken, and no finished image lost."""

from __future__ import annotations

import errno
import threading

import numpy as np
import pytest
import torch
from tiny_runs import TINY

from apex_cli.backbones.sana import Sana, SanaConfig
from apex_cli.errors import StorageError
from apex_cli.generation import Request, SampleConfig, generate
from apex_cli.streaming import WAITING, Keeper, staged, stream


@pytest.mark.parametrize("config", [SampleConfig(nfe=2), SampleConfig(sampler="euler", nfe=4, guidance=2)], ids=str)
def test_the_images_of_generate_in_their_order(config):
    sana = Sana(SanaConfig(tiny=TINY, max_tokens=64))
    requests = [Request(f"a {color} cube", seed) for color in ("red", "blue", "green") for seed in range(3)]
    expected, made = list(generate(sana, config, requests, 2)), list(stream(sana, config, requests, 2))
    assert [image.request for image in made] == requests
    for a, b in zip(expected, made, strict=True):
        assert np.array_equal(a.pixels, b.pixels)
        assert torch.equal(a.latent, b.latent)
        assert a.nfe == b.nfe


def test_a_stage_is_only_a_little_ahead():
    asked = []

    def items():
        for number in range(100):
            asked.append(number)
            yield number

    taken = staged(lambda x: x, items())
    assert next(taken) == 0
    for _ in range(200):
        if len(asked) > WAITING:
            break
        threading.Event().wait(0.01)
    assert len(asked) <= WAITING + 3
    before = threading.active_count()
    taken.close()
    assert threading.active_count() == before - 1


def test_stages_work_at_the_same_time():
    """Each of two waits for the other."""
    meeting = threading.Barrier(2, timeout=20)

    def first(number):
        if number == 1:
            meeting.wait()
        return number

    def second(number):
        if number == 0:
            meeting.wait()
        return number

    assert list(staged(second, staged(first, range(3)))) == [0, 1, 2]


def test_an_error_comes_after_the_results_before_it():
    def fails(number):
        if number == 2:
            raise ValueError("the third")
        return number

    results = staged(str, staged(fails, range(5)))
    assert [next(results), next(results)] == ["0", "1"]
    with pytest.raises(ValueError, match="the third"):
        next(results)


def test_a_full_disk_loses_nothing_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    out = tmp_path / "out"
    out.mkdir()

    def write(number, folder):
        if folder == out and number >= 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        path = folder / f"{number}.txt"
        path.write_text(str(number))
        return path

    keeper = Keeper(out, write)
    assert [keeper(number).read_text() for number in range(4)] == ["0", "1", "2", "3"]
    assert sorted(path.name for path in tmp_path.rglob("*.txt")) == ["0.txt", "1.txt", "2.txt", "3.txt"]
    with pytest.raises(
        StorageError, match=r"No space left on device. 2 image\(s\) are there, 2 finished after that in"
    ):
        keeper.check()


def test_where_nothing_can_be_written_it_says_how_many():
    def write(number, folder):
        raise OSError(errno.EROFS, "Read-only file system")

    keeper = Keeper(None, write)
    assert keeper(0) is None
    with pytest.raises(StorageError, match="1 could be written nowhere"):
        keeper.check()
