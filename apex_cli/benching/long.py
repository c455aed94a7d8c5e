"""Thousands of pictures into a folder: how fast, how much memory over time, and what a full disk leaves behind.

A picture is written beside its name and renamed, so a file that has its name is whole. What is there is not drawn
again: the same command goes on after any interruption.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from apex_cli.benching.clocks import Clock
from apex_cli.errors import StorageError
from apex_cli.records import Progress
from apex_cli.streaming import Keeper, staged


@dataclass
class LongRun:
    """`resident`: bytes of the process after each batch."""

    folder: str
    pictures: int
    found: int
    """Pictures that were there before."""
    seconds: float = 0.0
    resident: list[int] = field(default_factory=list)

    @property
    def images_per_second(self) -> float:
        return (self.pictures - self.found) / self.seconds if self.seconds else 0.0

    @property
    def growth(self) -> float:
        """Memory of the last tenth of the batches over that of the second tenth (the first fills caches), less 1."""
        tenth = max(1, len(self.resident) // 10)
        early = self.resident[tenth : 2 * tenth] or self.resident
        return median(self.resident[-tenth:]) / median(early) - 1 if self.resident else 0.0

    def record(self) -> dict[str, Any]:
        """As JSON; memory at a hundred moments at most."""
        every = max(1, len(self.resident) // 100)
        return {
            "folder": self.folder,
            "pictures": self.pictures,
            "found": self.found,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "memory_growth": self.growth,
            "memory_peak": max(self.resident, default=0),
            "memory": self.resident[::every],
        }


def file_name(index: int) -> str:
    return f"{index:06d}.png"


def missing(folder: Path, count: int) -> list[int]:
    """Which of pictures 0 to `count` - 1 are not in `folder`, made if need be; `StorageError` if it cannot be used."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise StorageError(
            f"'{folder}' cannot be written: {error.strerror}; no picture was drawn.", "Choose another --out."
        ) from error
    return [index for index in range(count) if not (folder / file_name(index)).is_file()]


def writer(encode: Callable[[Any], bytes]) -> Callable[[tuple[int, Any], Path], None]:
    """What a `streaming.Keeper` needs to write (index, picture)."""

    def write(item: tuple[int, Any], folder: Path) -> None:
        index, image = item
        path = folder / file_name(index)
        staging = path.with_name(f".{path.name}.partial")
        try:
            staging.write_bytes(encode(image))
            staging.replace(path)
        except OSError:
            staging.unlink(missing_ok=True)
            raise

    return write


def produce(
    batches: Iterable[list[tuple[int, Any]]], keeper: Keeper[tuple[int, Any], None], run: LongRun, clock: Clock
) -> Iterator[Progress]:
    """Write the pictures of `batches` in a thread of their own; `run` fills meanwhile. Raises `StorageError` after the
    batch that could not be written."""

    def keep(batch: list[tuple[int, Any]]) -> int:
        for item in batch:
            keeper(item)
        return len(batch)

    start, done = clock.wall(), run.found
    for count in staged(keep, batches):
        keeper.check()
        done += count
        run.resident.append(resident())
        yield Progress("draw", done, run.pictures)
    run.seconds = clock.wall() - start


def resident() -> int:
    """Bytes of this process in memory now, what it has freed but not given back included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
