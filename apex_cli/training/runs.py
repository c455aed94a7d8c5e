"""A run folder: one process at a time, one recipe for its whole life."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apex_cli.errors import StorageError, UsageError

RECIPE = "recipe.toml"


def is_main() -> bool:
    """Whether this process is the one of its run that writes and speaks: rank 0 of torchrun, or the only one."""
    return int(os.environ.get("RANK", 0)) == 0


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
        if stored.is_file() and stored.read_text() != recipe and any(folder.glob("step-*")):
            raise UsageError(
                f"'{folder}' holds a run of another recipe (compare {stored}).",
                "Choose another --out, or delete the folder to start anew.",
            )
        stored.write_text(recipe)
        yield
    finally:
        lock.release()
