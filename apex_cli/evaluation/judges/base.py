"""Who answers questions about pictures: an endpoint, a local model, or a file of answers. All of one shape."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from apex_cli.evaluation.base import Picture


@dataclass(frozen=True)
class Query:
    """One question about one picture. `system` may be empty."""

    picture: Picture
    text: str
    system: str = ""

    @cached_property
    def key(self) -> str:
        """SHA-256 of the picture's file and both texts."""
        content = json.dumps([self.picture.sha256, self.system, self.text])
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True)
class Answer:
    """`error` is a sentence where no text came. `tokens`: read and written; `attempts`: requests that were sent."""

    text: str = ""
    error: str = ""
    attempts: int = 1
    tokens: tuple[int, int] = (0, 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Estimate:
    """What questions will cost, told before the first is sent. `read`: tokens of texts and pictures, about; `written`:
    tokens if every answer is as long as it may be; `dollars`: of both, 0 without prices. Questions that have to be
    asked again come on top."""

    protocol: str
    judge: str
    calls: int
    read: int
    written: int
    dollars: float
    budget: float | None = None
    """US dollars for all workers together."""
    workers: int = 1
    """Who have equal shares of it."""
    spent: float = 0
    """What this worker has paid before."""
    until_spent: bool = False
    """Whether to begin although the budget will not do."""

    @property
    def passes_budget(self) -> bool:
        return self.budget is not None and self.spent + self.dollars > self.budget / self.workers

    def __str__(self) -> str:
        asked = f"{self.calls:,} question{'s' * (self.calls != 1)} to {self.judge}"
        told = f"${self.dollars:,.2f}, {self._limit}" if self.dollars else "no price is set"
        tokens = f"about {self.read:,} tokens to read and at most {self.written:,} to write"
        return f"{self.protocol}: {asked}, {tokens}: {told}"

    @property
    def _limit(self) -> str:
        if self.budget is None:
            return "no budget"
        limit, share = f"${self.budget:,.2f}", f"${self.budget / self.workers:,.2f}"
        limit = f"this worker's share of the budget of {limit} is {share}" if self.workers > 1 else f"budget {limit}"
        return f"{limit}, ${self.spent:,.2f} of it spent" if self.spent else limit

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class Judge(Protocol):
    @property
    def name(self) -> str:
        """Of the model, as it stands in tables."""
        ...

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON: what its answers depend on."""
        ...

    @property
    def unusual(self) -> Sequence[str]:
        """What of its settings should stand in the name of a protocol."""
        ...

    @property
    def readings(self) -> int:
        """How often a question is asked at most, while the answer cannot be read; 1 where it would be the same."""
        ...

    def share(self, workers: int) -> None:
        """Its budget is that of so many processes together."""
        ...

    def open(self) -> None:
        """Load what there is to load; raises `SetupError`."""
        ...

    def estimate(self, queries: Sequence[Query], protocol: str) -> Estimate | None:
        """What they will cost; None for a judge that nobody is paid for."""
        ...

    def ask(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Answer]]:
        """One answer a query as they arrive, errors included. `SetupError` after the last one where a refusal holds for
        all questions to come."""
        ...


def record_row(query: Query, answer: Answer, judge: str) -> dict[str, Any]:
    """A raw answer as a line of a record, which `Recorded` reads."""
    picture = query.picture
    place = {"item": picture.item.id, "k": picture.k, "picture": picture.sha256, "key": query.key}
    return {**place, "question": query.text, "judge": judge, **answer.to_json()}


def append(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
