"""A checkpoint is whole or absent, and what is not whole is refused by name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from apex_cli.errors import CheckpointError
from apex_cli.training import checkpoint


def fill(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "weights.safetensors").write_bytes(b"w" * 100)
    (folder / "contract.json").write_text('{"step": 1}')


def written(run: Path, *steps: int) -> list[Path]:
    folders = [checkpoint.step_folder(run, step) for step in steps]
    for folder in folders:
        checkpoint.write(folder, fill)
    return folders


def test_written_whole(tmp_path):
    (folder,) = written(tmp_path, 1)
    checkpoint.verify(folder)
    assert json.loads((folder / "manifest.json").read_text()).keys() == {"contract.json", "model/weights.safetensors"}
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    assert checkpoint.read_contract(folder) == {"step": 1}


def test_a_crash_while_writing_leaves_no_checkpoint(tmp_path):
    def crash(folder: Path) -> None:
        fill(folder)
        raise RuntimeError("power cut")

    (old,) = written(tmp_path, 1)
    with pytest.raises(RuntimeError):
        checkpoint.write(checkpoint.step_folder(tmp_path, 2), crash)
    assert checkpoint.steps(tmp_path) == [old]
    assert checkpoint.newest(tmp_path) == old
    (new,) = written(tmp_path, 2)  # what the crash left is in nobody's way
    assert checkpoint.newest(tmp_path) == new


def test_a_crash_before_the_rename_leaves_no_checkpoint(tmp_path, monkeypatch):
    def crash(*_: object) -> None:
        raise RuntimeError("power cut")

    monkeypatch.setattr(Path, "rename", crash)
    with pytest.raises(RuntimeError):
        checkpoint.write(checkpoint.step_folder(tmp_path, 1), fill)
    assert checkpoint.newest(tmp_path) is None


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[50] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink])
def test_harm_is_found_and_the_file_named(tmp_path, harm):
    (folder,) = written(tmp_path, 1)
    harm(folder / "model" / "weights.safetensors")
    for look in (checkpoint.verify, checkpoint.find):
        with pytest.raises(CheckpointError, match=r"model/weights\.safetensors"):
            look(folder)
    with pytest.raises(CheckpointError):
        checkpoint.newest(tmp_path)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter.pt", "optimizer.pkl"])
def test_a_pickle_is_refused(tmp_path, name):
    (folder,) = written(tmp_path, 1)
    (folder / "model" / name).write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=rf"{name}' is a pickle"):
        checkpoint.find(tmp_path)


def test_an_unreadable_manifest(tmp_path):
    (folder,) = written(tmp_path, 1)
    (folder / "manifest.json").write_text('{"contract')
    with pytest.raises(CheckpointError, match="no readable manifest"):
        checkpoint.find(folder)


def test_only_the_newest_are_kept(tmp_path):
    *_, third, fourth = written(tmp_path, 1, 2, 3, 4)
    checkpoint.prune(tmp_path, keep=2)
    assert sorted(tmp_path.iterdir()) == checkpoint.steps(tmp_path) == [third, fourth]


def test_steps_are_numbers_however_long(tmp_path):
    """As text, step-1000000 comes before step-999999."""
    *_, old, new = written(tmp_path, 5, 999_999, 1_000_000)
    assert checkpoint.newest(tmp_path) == new
    checkpoint.prune(tmp_path, keep=2)
    assert checkpoint.steps(tmp_path) == [old, new]


def test_a_copy_that_somebody_keeps_is_left_alone(tmp_path):
    (folder,) = written(tmp_path, 7)
    copies = [shutil.copytree(folder, tmp_path / name) for name in ("step-000007-good", "step-best", "step-7")]
    assert checkpoint.steps(tmp_path) == [folder]
    checkpoint.prune(tmp_path, keep=1)
    assert all((copy / checkpoint.MANIFEST).is_file() for copy in copies)


def test_a_crash_while_one_is_replaced_leaves_the_older_ones(tmp_path, monkeypatch):
    """Never half a checkpoint that would stop the run for good."""

    def crash(folder: Path, **_: object) -> None:
        if folder.name == "step-000002":
            (folder / "model" / "weights.safetensors").unlink()
            raise RuntimeError("power cut")

    old, _ = written(tmp_path, 1, 2)
    monkeypatch.setattr(shutil, "rmtree", crash)
    with pytest.raises(RuntimeError):
        written(tmp_path, 2)
    assert checkpoint.newest(tmp_path) == old


def test_what_a_kill_left_is_cleared_away(tmp_path):
    half_deleted, kept = written(tmp_path, 1, 2)
    (half_deleted / "manifest.json").unlink()
    shutil.copytree(kept, tmp_path / ".step-000003.partial")
    checkpoint.prune(tmp_path, keep=5)
    assert list(tmp_path.iterdir()) == [kept]


def test_a_contract_of_a_later_format_is_not_guessed_at(tmp_path):
    (tmp_path / "contract.json").write_text(json.dumps({"format": checkpoint.FORMAT + 1, "apex": "9.0"}))
    with pytest.raises(CheckpointError, match=r"has format 2, of apex 9\.0"):
        checkpoint.read_contract(tmp_path)


def test_where_there_is_none(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint or run at"):
        checkpoint.find(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="no finished checkpoint"):
        checkpoint.find(tmp_path)
    assert checkpoint.newest(tmp_path) is None
