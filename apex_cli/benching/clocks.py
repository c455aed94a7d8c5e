"""Clocks: the wall, and marks on the timeline of the device, which cost no synchronisation.

A request is synchronised once, at its end. Between, marks tell the stages apart: on CUDA they are events in the stream,
so that a stage is what the device spent, however far ahead the host has run.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import torch


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
    """Where the host does the work itself."""

    def wall(self) -> float:
        return time.perf_counter()

    def mark(self) -> float:
        return self.wall()

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


def clock(device: torch.device) -> Clock:
    """The clock of a device."""
    return CudaClock() if device.type == "cuda" else HostClock()
