"""The commands that a fresh machine can run: nothing is fetched, nothing stands in for anything."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from apex_cli import app

UNPLUGGED = """
import socket, sys

def refuse(*_):
    raise AssertionError("a socket was opened")

socket.socket.connect = socket.getaddrinfo = refuse
from apex_cli import app

sys.exit(app.main(sys.argv[1:]))
"""


def unplugged(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    """A command in `folder`, with empty caches and no network."""
    lacking = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TRANSFORMERS_"))}
    environment = {
        **lacking,
        "PYTHONPATH": str(Path(app.__file__).parents[1]),
        "HF_HOME": str(folder / "hub"),
        "APEX_CACHE": str(folder / "cache"),
    }
    command = [sys.executable, "-c", UNPLUGGED, *argv]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_shipped_student_under_three_suites(tmp_path):
    done = unplugged(
        tmp_path,
        "eval",
        "--ckpt",
        "assets:shapes_student",
        "--suite",
        "shapes,kid,ocr",
        "--prompts",
        "24",
        "--n",
        "1",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    (one,) = json.loads(done.stdout)["evaluations"]
    assert {name: result["status"] for name, result in one["results"].items()} == {
        "shapes": "scored",
        "kid@effnet-lite0": "scored",
        "ocr": "scored",
    }
    assert one["results"]["shapes"]["overall"]["score"] > 0.7
    assert one["results"]["ocr"]["overall"]["score"] > 0.7
    assert one["subject"]["source"] == "assets:shapes_student"
    assert "shapes_student 1 NFE · draw" in done.stderr


def test_geneval_without_its_judges_is_a_row_that_says_what_is_missing(tmp_path):
    done = unplugged(tmp_path, "eval", "--suite", "geneval", "--offline", "--json")
    assert done.returncode == 3, done.stderr
    (row,) = json.loads(done.stdout)["evaluations"][0]["results"].values()
    assert (row["protocol"], row["status"], row["value"]) == ("geneval@hf", "skipped", None)
    assert row["reason"].startswith("needs ")
    assert "apex eval prepare" in row["remedy"]
