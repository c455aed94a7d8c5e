"""Clocks: the wall, and marks on the timeline of the device, which cost no synchronisation.

A request is synchronised once, at its end. Between, marks tell the stages apart: on CUDA they are events in the stream,
so that a stage is what the device spent, however far ahead the host has run.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch

from apex_cli.errors import UsageError


class Clock(Protocol):
    """Marks are opaque; `between` may be asked after `sync`."""

    def wall(self) -> float:
        """Seconds of the host."""
        ...

    def mark(self) -> Any:
        """Now, on the device's timeline."""
        ...

    def between(self, first: Any, second: Any) -> float:
        """Seconds from one mark to another."""
        ...

    def sync(self) -> None:
        """Wait until the device has done what it was told."""
        ...


class HostClock:
    """Where the host does the work itself. With `cpu_time`, seconds are those that the process computed, on all its
    threads together: other processes, which make the wall clock useless on a shared machine, disturb them little."""

    def __init__(self, cpu_time: bool = False):
        self.read = time.process_time if cpu_time else time.perf_counter

    def wall(self) -> float:
        return self.read()

    def mark(self) -> float:
        return self.read()

    def between(self, first: float, second: float) -> float:
        return second - first

    def sync(self) -> None:
        pass


class CudaClock:
    """CUDA events on the current stream."""

    def wall(self) -> float:
        return time.perf_counter()

    def mark(self) -> Any:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, first: Any, second: Any) -> float:
        return first.elapsed_time(second) / 1000

    def sync(self) -> None:
        torch.cuda.synchronize()


KINDS = ("wall", "cpu")


def clock(device: torch.device, kind: str = "wall") -> Clock:
    """The clock of a device; `kind` "cpu" is for processors only."""
    if kind not in KINDS:
        raise UsageError(f"There is no clock called '{kind}'.", f"Known: {', '.join(KINDS)}.")
    if kind == "cpu" and device.type != "cpu":
        raise UsageError("CPU time says nothing about a GPU.", "Leave out --clock.")
    return CudaClock() if device.type == "cuda" else HostClock(kind == "cpu")
