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
from typing import Any

from apex_cli.benching.clocks import Clock
from apex_cli.benching.flatness import Memory
from apex_cli.errors import StorageError
from apex_cli.records import Progress
from apex_cli.streaming import Keeper, staged


@dataclass
class LongRun:
    """`memory`: of the process after each batch of new pictures."""

    folder: str
    pictures: int
    found: int
    """Pictures that were there before."""
    seconds: float = 0.0
    memory: Memory = field(init=False)

    def __post_init__(self) -> None:
        self.memory = Memory(self.pictures - self.found)

    @property
    def images_per_second(self) -> float:
        return (self.pictures - self.found) / self.seconds if self.seconds else 0.0

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "folder": self.folder,
            "pictures": self.pictures,
            "found": self.found,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "memory": self.memory.record() if self.memory.curve else None,
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
        run.memory.take(done - run.found)
        yield Progress("draw", done, run.pictures)
    run.seconds = clock.wall() - start
    keeper.check()
