"""Thousands of pictures into a folder: how fast, how much memory over time, and what a full disk leaves behind.

A picture is written beside its name and renamed, so a file that has its name is whole. What is there is not drawn
again: the same command goes on after any interruption.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import takewhile
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

    def tenth(self, number: int) -> float:
        """Bytes of the process in that tenth of the run, 0 to 9: the median after its batches."""
        count = len(self.resident)
        first = min(number * count // 10, count - 1)
        return median(self.resident[first : max(first + 1, (number + 1) * count // 10)])

    @property
    def growth(self) -> float:
        """Bytes for each 1,000 pictures, from the second tenth (the first fills caches) to the last."""
        return 1000 * (self.tenth(9) - self.tenth(1)) / (0.8 * (self.pictures - self.found))

    def record(self) -> dict[str, Any]:
        """As JSON; memory at a hundred moments at most."""
        every = max(1, len(self.resident) // 100)
        return {
            "folder": self.folder,
            "pictures": self.pictures,
            "found": self.found,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "memory": {
                "first_tenth": self.tenth(0),
                "last_tenth": self.tenth(9),
                "growth_per_1000_images": self.growth,
                "peak": max(self.resident),
                "samples": self.resident[::every],
            }
            if self.resident
            else None,
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
    draw: Callable[[Iterable[int]], Iterable[list[tuple[int, Any]]]],
    wanted: Iterable[int],
    keeper: Keeper[tuple[int, Any], None],
    run: LongRun,
    clock: Clock,
) -> Iterator[Progress]:
    """Draw the pictures `wanted`, in batches, and write them in a thread of its own; `run` fills meanwhile.

    Where one cannot be written, no new one is begun; those on their way are finished and go where there is room, and
    `StorageError` says where all of them are.
    """

    def keep(batch: list[tuple[int, Any]]) -> int:
        for item in batch:
            keeper(item)
        return len(batch)

    start, done = clock.wall(), run.found
    for count in staged(keep, draw(takewhile(lambda _: keeper.failure is None, wanted))):
        done += count
        run.resident.append(resident())
        yield Progress("draw", done, run.pictures)
    run.seconds = clock.wall() - start
    keeper.check()


def resident() -> int:
    """Bytes of this process in memory now, what it has freed but not given back included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
