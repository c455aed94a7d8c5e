"""Runs of a tiny fresh pipeline, in this process: a recipe file, the command line, and what a run leaves behind."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import tomli_w

from apex_cli import app

if TYPE_CHECKING:
    from apex_cli.training.loop import Trainer

TINY = {"width": 32, "layers": 1, "heads": 2, "text_width": 32, "text_layers": 1, "vae_channels": [8, 16, 32, 64]}
"""A pipeline of 0.2 M parameters."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "backbone": {"name": "sana", "tiny": TINY, "max_tokens": 64},
    "objective": {"name": "fm"},
    "data": {"name": "shapes", "size": 32},
    "train": {"steps": 4, "batch": 8, "lr": 1e-3, "log_every": 1, "save_every": 2, "keep": 9, "sample_every": 1000,
              "sample_seeds": 1},
}  # fmt: skip
LORA = {"tuning": "lora", "lora": {"rank": 4}}
APEX = {"name": "apex", "real": "base"}


def write_recipe(path: Path, **sections: dict[str, Any]) -> Path:
    """A recipe file: `DEFAULTS` with the keys of `sections` over them."""
    tables = {name: DEFAULTS.get(name, {}) | sections.get(name, {}) for name in (*DEFAULTS, *sections)}
    path.write_text(tomli_w.dumps({"name": path.stem} | tables))
    return path


def apex(*argv: object) -> int:
    """`apex ARGV` in this process; its exit code."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return app.main([str(word) for word in argv])


def train(folder: Path, **sections: dict[str, Any]) -> Path:
    """A finished run in `folder`."""
    recipe = write_recipe(folder.with_suffix(".toml"), **sections)
    assert apex("train", recipe, "--out", folder) == 0
    return folder


def ready_trainer(folder: Path, **sections: dict[str, Any]) -> Trainer:
    """The loop of a run in `folder`, before its first step."""
    from accelerate.state import AcceleratorState

    from apex_cli import build, recipe
    from apex_cli.training.loop import Trainer

    AcceleratorState._reset_state(reset_partial_state=True)
    made = Trainer(build.job(recipe.load(write_recipe(folder / "r.toml", **sections)), folder / "run"))
    deque(made._encode(), maxlen=0)
    return made


def manifest(run: Path, step: int) -> dict[str, str]:
    return json.loads((run / f"step-{step:06d}" / "manifest.json").read_text())


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Encoded latents are shared by the tests of a session, apart from those of the user. No page: it has own tests."""
    from apex_cli.training import page

    monkeypatch.setenv("APEX_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setattr(page, "write_page", lambda folder: None)


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[..., Path]:
    """`once(name, **sections)`: a finished run that several tests look at and none changes."""
    runs: dict[str, Path] = {}

    def finished(name: str, **sections: dict[str, Any]) -> Path:
        if name not in runs:
            runs[name] = train(tmp_path_factory.mktemp("once") / name, **sections)
        return runs[name]

    return finished
