"""Ctrl-C and SIGTERM while a run is under way: noted, so that the run can save and stop where it is whole."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any, Self

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Within it `signal` is the number of the one that came, else None; `tell` says so to the user."""

    def __init__(self, tell: Callable[[str], object]):
        self.tell = tell
        self.signal: int | None = None
        self.handlers: dict[int, Any] = {}
        """What handled signals before."""

    def __enter__(self) -> Self:
        self.handlers = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        """A second Ctrl-C finds the handler that was there before; a second SIGTERM, as launchers send it, this one."""
        self.signal, again = number, ""
        if number == signal.SIGINT:
            signal.signal(number, self.handlers[number])
            again = " Press Ctrl-C again to abort at once."
        self.tell(f"Saving after this step.{again}")
