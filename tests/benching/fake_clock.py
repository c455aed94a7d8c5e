"""A clock that passes only when it is told to."""

from __future__ import annotations


class FakeClock:
    def __init__(self, per_look: float = 0.0):
        self.now, self.per_look, self.synced = 0.0, per_look, 0

    def pass_(self, seconds: float) -> None:
        self.now += seconds

    def wall(self) -> float:
        self.now += self.per_look
        return self.now

    mark = wall

    def between(self, first: float, second: float) -> float:
        return second - first

    def sync(self) -> None:
        self.synced += 1
