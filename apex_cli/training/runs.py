"""A run folder: one process at a time, and one recipe and one data set for its whole life.

But what is only computed or shown in another way may change, and where nothing depends on its end a run may go on.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apex_cli.errors import StorageError, UsageError

RECIPE = "recipe.toml"
FREE = {
    "train": {
        "sharding", "gradient_checkpointing", "compile", "graphs", "micro_batch", "save_every", "keep", "log_every",
        "trackers", "telemetry_every", "sample_every", "sample_prompts", "sample_seeds",
    },
    "backbone": {"offload"},
}  # fmt: skip
"""Settings that change how a run computes and what it writes down, but not its result: they may change on the way."""
SHOWN = {"teacher_sample"}
"""Sections of which all is so."""
STEPS = "train.steps"


def is_main() -> bool:
    """Whether this process is the one of its run that writes and speaks: rank 0 of torchrun, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def changed(old: str, new: str) -> list[str]:
    """Keys, `section.key`, in which `new` gives another result than going on with `old` would."""
    mine, theirs = _results(old), _results(new)
    keys = {key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key)}
    if STEPS in keys and mine[STEPS] < theirs[STEPS] and not _knows_its_end(theirs):
        keys.remove(STEPS)
    return sorted(keys)


def _knows_its_end(results: dict[str, Any]) -> bool:
    """Whether what a step does depends on how many there are: by the learning rate, or by the times it trains."""
    return results["train.schedule"] != "constant" or _has(results, "weights_at_end")


def _has(value: Any, key: str) -> bool:
    if isinstance(value, dict):
        return key in value or any(_has(part, key) for part in value.values())
    return isinstance(value, list) and any(_has(part, key) for part in value)


def _results(recipe: str) -> dict[str, Any]:
    tables = tomllib.loads(recipe)
    flat = {name: value for name, value in tables.items() if not isinstance(value, dict)}
    for section, table in tables.items():
        if isinstance(table, dict) and section not in SHOWN:
            free = FREE.get(section, set())
            flat |= {f"{section}.{key}": value for key, value in table.items() if key not in free}
    return flat


def check_data(run: Path, contract: Mapping[str, Any], fingerprint: str | None) -> None:
    """Raise `UsageError` unless the data has the `fingerprint` of the checkpoint that goes on: which sample comes when
    follows from the whole set."""
    if contract.get("data_fingerprint", fingerprint) != fingerprint:
        raise UsageError(
            f"The data set is not the one that '{run}' saw up to step {contract['step']}: a picture, a caption or the "
            "reader has changed, so that other samples would come from here on.",
            f"Put it back as it was, or begin a new run with these weights: --set train.init_from={run} --out OTHER",
        )


@contextmanager
def opened(folder: Path, recipe: str) -> Iterator[None]:
    """Create or reopen `folder` for `recipe`; refuses another recipe's folder and a folder that is in use."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as error:
        raise StorageError(
            f"'{folder}' cannot be a run folder: a file is in the way.", "Choose another --out."
        ) from error
    if not is_main():
        yield
        return
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"Another process is training in '{folder}'.", "Wait for it, or choose another --out."
        ) from error
    try:
        stored = folder / RECIPE
        if stored.is_file() and any(folder.glob("step-*")) and (keys := changed(stored.read_text(), recipe)):
            raise UsageError(
                f"'{folder}' holds a run of another recipe: {', '.join(keys)} differs (compare {stored}).",
                "Choose another --out, or delete the folder to start anew.",
            )
        stored.write_text(recipe)
        yield
    finally:
        lock.release()
