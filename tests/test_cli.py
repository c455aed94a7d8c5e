"""The command line as a user and a script meet it: light start, exit codes, sentences with a remedy, JSON."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from apex_cli import __version__, app, errors, recipe
from apex_cli.commands import _ui

ROOT = Path(__file__).resolve().parents[1]
HEAVY = {
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "numpy",
    "scipy",
    "PIL",
    "matplotlib",
    "pydantic",
    "rich",
}


@pytest.fixture(autouse=True)
def fresh_consoles():
    _ui.stdout.cache_clear()
    _ui.stderr.cache_clear()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of recipes in place of the shipped ones."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    (folder / "alpha.toml").write_text("# First of [two] recipes.\n# More words.\n\nname = 'alpha'\n")
    (folder / "beta.toml").write_text("# Second.\n")
    monkeypatch.setattr(recipe, "recipe_folder", lambda: folder)
    return folder


def raising(monkeypatch, error: BaseException) -> None:
    """A command `boom` that raises `error`."""

    def boom(as_json: _ui.Json = False) -> None:
        raise error

    boom.__annotations__["as_json"] = _ui.Json
    monkeypatch.setattr(sys.modules[__name__], "boom", boom, raising=False)
    monkeypatch.setitem(app.COMMANDS, "boom", f"{__name__}:boom")


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from apex_cli.app import main; code = main(['--help']); print(sorted(sys.modules)); sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    modules = {name.strip("[]'").split(".")[0] for name in done.stdout.splitlines()[-1].split(", ")}
    assert "typer" in modules
    assert not modules & HEAVY


def test_help_lists_every_command_and_exit_code(capsys):
    assert app.main(["-h"]) == 0
    text = capsys.readouterr().out
    for name in app.COMMANDS:
        assert name in text
    for code in ("0 ok", "2 usage or recipe", "9 regression found", "130/143 stopped"):
        assert f"\n    {code}" in text


def test_every_command_has_help(capsys):
    for name in app.COMMANDS:
        assert app.main([name, "--help"]) == 0
        assert f"Usage: apex {name}" in capsys.readouterr().out


def test_version(capsys):
    assert app.main(["--version"]) == 0
    assert capsys.readouterr().out == f"apex {__version__}\n"


def test_no_arguments_show_the_help(capsys):
    assert app.main([]) == 2
    assert capsys.readouterr().err.startswith("Usage: apex")


@pytest.mark.parametrize(
    ("argv", "suggestion"),
    [(["recipse"], "recipes"), (["recipes", "shwo"], "show"), (["recipes", "ls", "--jsno"], "--json")],
)
def test_did_you_mean(argv, suggestion, capsys):
    assert app.main(argv) == 2
    out, err = capsys.readouterr()
    assert suggestion in err
    assert "\n-> See `apex" in err
    assert out == ""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.UsageError("m", "r"), 2),
        (errors.DataError("m", "r"), 3),
        (errors.SetupError("m", "r"), 4),
        (errors.MemoryLimitError("m", "r"), 5),
        (errors.NumericalError("m", "r"), 6),
        (errors.StorageError("m", "r"), 7),
        (errors.CheckpointError("m", "r"), 8),
        (errors.RegressionFound("m", "r"), 9),
        (errors.Stopped(15, "m", "r"), 143),
        (MemoryError("m"), 5),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:1] DefaultCPUAllocator: can't allocate memory"), 5),
        (OSError(errno.ENOSPC, "No space left on device", "x"), 7),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 7),
        (OSError(errno.EROFS, "Read-only file system"), 7),
        (KeyboardInterrupt(), 130),
        (typer.Abort(), 130),
        (typer.Exit(3), 3),
        (ValueError("m"), 1),
    ],
    ids=repr,
)
def test_exit_codes(error, code, monkeypatch, capsys):
    raising(monkeypatch, error)
    assert app.main(["boom"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err


def test_torch_out_of_memory(monkeypatch):
    import torch

    raising(monkeypatch, torch.OutOfMemoryError("CUDA out of memory."))
    assert app.main(["boom"]) == 5


def test_one_sentence_and_its_remedy(monkeypatch, capsys):
    raising(monkeypatch, errors.DataError("No images in 'x'.", "Give a folder with .png files."))
    app.main(["boom"])
    assert capsys.readouterr().err == "No images in 'x'.\n-> Give a folder with .png files.\n"


def test_errors_as_json(monkeypatch, capsys):
    raising(monkeypatch, errors.DataError("m", "r"))
    assert app.main(["boom", "--json"]) == 3
    out, err = capsys.readouterr()
    assert json.loads(out) == {"error": {"message": "m", "remedy": "r", "exit_code": 3}}
    assert err == ""


def test_traceback_of_a_bug_on_request(monkeypatch, capsys):
    raising(monkeypatch, ZeroDivisionError("oops"))
    app.main(["boom"])
    assert "APEX_TRACEBACK=1" in capsys.readouterr().err
    monkeypatch.setenv("APEX_TRACEBACK", "1")
    app.main(["boom"])
    assert "Traceback" in capsys.readouterr().err


def test_closed_pipe_is_quiet():
    command = f"{sys.executable} -m apex_cli.app --help | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stderr == ""


def test_recipes_ls(shelf, capsys):
    assert app.main(["recipes", "ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["RECIPE", "DESCRIPTION"]
    assert lines[1].split(maxsplit=1) == ["alpha", "First of [two] recipes."]
    assert app.main(["recipes", "ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[1] == {"name": "beta", "description": "Second."}


def test_recipes_show_and_unknown_name(shelf, capsys):
    assert app.main(["recipes", "show", "alpha"]) == 0
    assert capsys.readouterr().out == (shelf / "alpha.toml").read_text()
    assert app.main(["recipes", "show", "alhpa"]) == 2
    assert "Did you mean 'alpha'?" in capsys.readouterr().err


def test_recipes_cp_keeps_an_existing_file(shelf, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert app.main(["recipes", "cp", "alpha"]) == 0
    copy = tmp_path / "alpha.toml"
    copy.write_text("mine")
    assert app.main(["recipes", "cp", "alpha", "."]) == 2
    assert copy.read_text() == "mine"
    assert app.main(["recipes", "cp", "alpha", "new/a.toml"]) == 0
    assert app.main(["recipes", "cp", "alpha", "--force"]) == 0
    assert copy.read_text() == (tmp_path / "new" / "a.toml").read_text() == (shelf / "alpha.toml").read_text()


def test_tables_have_no_escape_codes_and_whole_lines_in_a_pipe(capsys):
    _ui.table(("NAME", "SCORE", "TEXT"), [("a", 0.5, "x" * 100), ("b", 1.0, "[red]y")])
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "x" * 100 in out
    assert "[red]y" in out
    assert "0.500" in out
