"""Checkpoints that are whole or absent: staged in a hidden folder, hashed, flushed, then renamed into place.

step-000200/
  model/ ema/      what diffusers itself loads: component folders, or a LoRA file
  state/           optimizer.safetensors, state.json (no pickle anywhere)
  recipe.toml      the resolved recipe
  contract.json    what a sampler must know
  manifest.json    SHA-256 of every file, written last
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apex_cli import __version__
from apex_cli.backbones.folders import refuse_pickles
from apex_cli.data.store import file_hash, flush
from apex_cli.errors import CheckpointError

FORMAT = 1
"""Of contract.json; raised when an older apex would misread it."""
MANIFEST = "manifest.json"
BASE = "base"
"""Folder of a base that an export brings along; the backbone's `path` in its contract."""


def step_folder(run: Path, step: int) -> Path:
    return run / f"step-{step:06d}"


def step_of(folder: Path) -> int | None:
    """The step of a folder that `step_folder` names; None for any other, e.g. a copy that somebody keeps."""
    number = folder.name.removeprefix("step-")
    return int(number) if number.isdecimal() and step_folder(folder.parent, int(number)) == folder else None


def write(folder: Path, fill: Callable[[Path], None]) -> None:
    """Create `folder` atomically from what `fill(staging)` writes: a kill at any moment leaves it whole or absent.

    One that is there already goes first, so that a kill between the two leaves neither; a run that repeats a step
    repeats it from an older checkpoint.
    """
    staging = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    fill(staging)
    files = sorted(path for path in staging.rglob("*") if path.is_file())
    manifest = {path.relative_to(staging).as_posix(): file_hash(path) for path in files}
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1))
    for path in [*files, staging / MANIFEST, *(p for p in staging.rglob("*") if p.is_dir()), staging]:
        flush(path)
    if folder.exists():
        _delete(folder)
    staging.rename(folder)
    flush(folder.parent)


def verify(folder: Path) -> None:
    """Raise `CheckpointError` unless every file of the manifest is there, unchanged, and no pickle lies beside it."""
    remedy = "Use another step-* folder of the run, or copy it again."
    try:
        manifest: dict[str, str] = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{folder}' is not a complete checkpoint: no readable {MANIFEST}.", remedy) from error
    for name, expected in manifest.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"The checkpoint '{folder}' lacks {name}.", remedy)
        if file_hash(path) != expected:
            raise CheckpointError(f"{name} in '{folder}' is truncated or altered (SHA-256 differs).", remedy)
    refuse_pickles(folder)


def steps(run: Path) -> list[Path]:
    """The finished checkpoints of a run, oldest first."""
    return [path for path in _numbered(run) if (path / MANIFEST).is_file()]


def _numbered(run: Path) -> list[Path]:
    """By number, not by name: the millionth step comes after step 999999."""
    found = ((step, path) for path in run.glob("step-*") if (step := step_of(path)) is not None)
    return [path for _, path in sorted(found)]


def newest(run: Path) -> Path | None:
    """The newest checkpoint, verified; a damaged one raises rather than silently losing steps."""
    found = steps(run)
    if not found:
        return None
    verify(found[-1])
    return found[-1]


def last_step(run: Path) -> int:
    """The step of the newest checkpoint, which is not looked into; 0 where there is none."""
    return next((step_of(path) or 0 for path in reversed(steps(run))), 0)


def find(path: Path, verified: bool = True) -> Path:
    """The checkpoint that `path` means: a step folder itself, or the newest one of a run folder."""
    if not path.is_dir():
        raise CheckpointError(f"There is no checkpoint or run at '{path}'.", "Give a run folder such as runs/NAME.")
    itself = (path / "contract.json").is_file() or (path / MANIFEST).is_file()
    found = path if itself else next(reversed(steps(path)), None)
    if found is None:
        raise CheckpointError(f"'{path}' holds no finished checkpoint.", "Train it first: apex train RECIPE.")
    if verified:
        verify(found)
    return found


def prune(run: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and what a kill left of others."""
    kept = steps(run)[-keep:]
    for folder in {*_numbered(run), *run.glob(".step-*.partial")}.difference(kept):
        _delete(folder)


def _delete(folder: Path) -> None:
    """The manifest goes first: what a kill leaves of the rest is no checkpoint."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def read_contract(folder: Path) -> dict[str, Any]:
    """Raises `CheckpointError` where a later apex has written what this one cannot know."""
    contract = json.loads((folder / "contract.json").read_text())
    if (found := contract.get("format", FORMAT)) > FORMAT:
        told = f"'{folder}' has format {found}, of apex {contract.get('apex')}; this is {__version__}, up to {FORMAT}."
        raise CheckpointError(told, "Update apex.")
    return contract


def last_contract(run: Path) -> dict[str, Any] | None:
    """The contract of the newest checkpoint, which is not verified; None where there is none."""
    return next((read_contract(folder) for folder in reversed(steps(run))), None)


def identity(folder: Path) -> str:
    """SHA-256 of the manifest, which holds the hash of every file."""
    return file_hash(folder / MANIFEST)
