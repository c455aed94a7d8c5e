"""`apex cache`: what lies there, whether it is whole, and what may go."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tiny_runs import apex

from apex_cli.data import caches, screen
from apex_cli.data.folder import FolderConfig
from apex_cli.data.store import MANIFEST, Store, draft, write

DAY = 86400
ABOUT = {"data": "shapes", "model": "assets:shapes_teacher"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def filled(name: str, kind: str = "latents", shards: int = 2, days: float = 0, complete: bool = True) -> Store:
    """A store of 5 rows (about 20 kB) a shard, last used `days` ago."""
    store = Store(kind, {"data": name}, ABOUT)
    store.begin()
    for number in range(shards):
        path = store.folder / f"{number:05d}.safetensors"
        write(path, 5, {"latents": torch.full((5, 1000), float(number))})
    if complete:
        store.finish()
    used = time.time() - days * DAY - 60
    for path in store.folder.iterdir():
        os.utime(path, (used, used))
    return store


def test_ls(capsys):
    assert apex("cache", "ls", "--json") == 0
    assert json.loads(capsys.readouterr().out) == []
    old, new = filled("old", days=3), filled("new", "prompts", complete=False)
    assert apex("cache", "ls", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)
    assert second == {
        "kind": "latents", "key": old.key, "folder": str(old.folder), "rows": 10, "complete": True, **ABOUT,
        "size": sum(path.stat().st_size for path in old.folder.iterdir()), "age": pytest.approx(3 * DAY + 60, abs=30),
    }  # fmt: skip
    assert (first["kind"], first["key"], first["rows"], first["complete"]) == ("prompts", new.key, 10, False)
    assert apex("cache", "ls") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["KIND", "KEY", "ROWS", "SIZE", "UNUSED", "DATA", "MODEL", "STATE"]
    assert lines[2][:3] == ["latents", old.key, "10"]
    assert lines[2][5:] == ["3", "d", "shapes", "assets:shapes_teacher", "complete"]


def test_what_a_run_leaves(once, monkeypatch, capsys, tmp_path_factory):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    once("plain")
    capsys.readouterr()
    assert apex("cache", "ls", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert {entry["kind"] for entry in told} == {"latents", "prompts"}
    assert all(entry["model"] for entry in told)
    assert any(entry["rows"] == 32 and entry["data"] == "shapes" for entry in told if entry["kind"] == "latents")
    assert apex("cache", "verify") == 0


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(content[:-1])
    else:
        content[-1] ^= 1
        path.write_bytes(content)


@pytest.mark.parametrize("how", ["missing", "truncated", "altered"])
def test_verify_names_what_is_broken(how, capsys):
    good, bad = filled("good"), filled("bad", days=1)
    assert apex("cache", "verify") == 0
    assert f"{good.folder}: complete and unaltered" in capsys.readouterr().out
    path = bad.folder / "00001.safetensors"
    damage(path, how)
    assert apex("cache", "verify") == 3
    told = capsys.readouterr()
    assert f"{path}: {how}" in told.out
    assert f"{good.folder}: complete and unaltered" in told.out
    assert "Delete the broken files" in told.err
    assert apex("cache", "verify", "--json") == 3
    found = json.loads(capsys.readouterr().out)
    assert (found["ok"], found["stores"], [row["file"] for row in found["broken"]]) == (False, 2, [str(path)])


def test_a_shard_swapped_for_a_whole_one_is_found(capsys):
    store = filled("swapped")
    one, other = (store.folder / f"0000{n}.safetensors" for n in (0, 1))
    one.write_bytes(other.read_bytes())
    assert apex("cache", "verify") == 3
    assert f"{one}: altered" in capsys.readouterr().out


def test_gc_by_age_and_size(folder, capsys):
    ages = {days: filled(f"{days} days", days=days) for days in (1, 10, 40)}
    size = caches.entries()[0].size
    assert apex("cache", "gc", "--older-than", "30d", "--dry-run") == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("Would free")
    assert all(store.folder.exists() for store in ages.values())
    assert apex("cache", "gc", "--older-than", "30d", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["path"] for row in told["removed"]] == [str(ages[40].folder)]
    assert told["freed"] == pytest.approx(size, abs=10)
    assert apex("cache", "gc", "--max-size", f"{1.5 * size / 1000}KB") == 0
    assert capsys.readouterr().out.startswith(f"{ages[10].folder}: ")
    assert [entry.key for entry in caches.entries()] == [ages[1].key]
    assert apex("cache", "gc", "--max-size", "0B") == 0
    assert caches.entries() == []


def test_gc_of_what_dead_processes_left(capsys):
    store = filled("kept", days=99)
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    name = f".00007.safetensors.{socket.gethostname()}"
    dead, alive = (store.folder / f"{name}.{pid}.partial" for pid in (done.pid, os.getpid()))
    remote, old = (store.folder / f".0000{n}.safetensors.some.other-host.{done.pid}.partial" for n in (1, 2))
    assert draft(store.folder / "00007.safetensors") == alive
    for path in (dead, alive, remote, old, store.folder / "notes.txt"):
        path.write_bytes(b"abc")
    os.utime(old, (1, 1))
    assert apex("cache", "gc") == 0
    told = capsys.readouterr().out.splitlines()
    assert {line.split(": ")[0] for line in told[:-1]} == {str(dead), str(old)}
    assert told[-1] == "Freed 6 B."
    assert {path.name for path in store.folder.iterdir()} == {
        alive.name, remote.name, "notes.txt", MANIFEST, "00000.safetensors", "00001.safetensors",
    }  # fmt: skip


class Screened:
    """What `screen` asks of a data set."""

    config, fingerprint = FolderConfig(path="my/pics"), "f"

    def __len__(self) -> int:
        return 7


def test_what_was_found_in_a_set_is_kept_too(folder, capsys):
    found = [{"row": 3, "sample": "3.png", "reason": "picture-empty", "told": "the file is empty"}]
    screen.remember(Screened(), found)
    (file,) = (folder / "screened").iterdir()
    os.utime(file, (1, 1))
    assert screen.recall(Screened()) == found
    (entry,) = caches.entries()
    assert (entry.kind, entry.key, entry.rows, entry.about) == ("screened", file.stem, 7, {"data": "my/pics"})
    assert entry.age < DAY  # it was used just now
    assert apex("cache", "verify") == 0
    file.write_text(file.read_text()[:-5])
    assert apex("cache", "verify") == 3
    assert f"{file}: truncated or not readable" in capsys.readouterr().out
    assert apex("cache", "gc", "--max-size", "0B") == 0
    assert not file.exists()


def test_what_is_not_ours_stays(folder, capsys):
    (folder / "latents" / "my pictures").mkdir(parents=True)
    (folder / "latents" / "mine.safetensors").write_bytes(b"1")
    assert apex("cache", "gc", "--max-size", "0B", "--older-than", "0s") == 0
    assert capsys.readouterr().out == "Freed 0 B.\n"
    assert len(list((folder / "latents").iterdir())) == 2


@pytest.mark.parametrize(("option", "value"), [("--older-than", "soon"), ("--older-than", "3GB"), ("--max-size", "10")])
def test_amounts_that_mean_nothing(option, value, capsys):
    assert apex("cache", "gc", option, value) == 2
    assert f"'{value}' is not an amount.\n-> Write e.g." in capsys.readouterr().err
