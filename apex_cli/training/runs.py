"""A run folder: one process at a time, one recipe for its whole life, but for how it is computed."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apex_cli.errors import StorageError, UsageError

RECIPE = "recipe.toml"
FREE = {
    "train": {
        "sharding", "gradient_checkpointing", "compile", "micro_batch", "save_every", "keep", "log_every", "trackers",
    },
    "backbone": {"offload"},
}  # fmt: skip
"""Settings that change how a run computes and what it writes down, but not its result: they may change on the way."""


def is_main() -> bool:
    """Whether this process is the one of its run that writes and speaks: rank 0 of torchrun, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


def changed(old: str, new: str) -> list[str]:
    """Keys, `section.key`, in which two recipes give different results."""
    mine, theirs = _results(old), _results(new)
    return sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))


def _results(recipe: str) -> dict[str, Any]:
    tables = tomllib.loads(recipe)
    flat = {name: value for name, value in tables.items() if not isinstance(value, dict)}
    for section, table in tables.items():
        if isinstance(table, dict):
            free = FREE.get(section, set())
            flat |= {f"{section}.{key}": value for key, value in table.items() if key not in free}
    return flat


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
