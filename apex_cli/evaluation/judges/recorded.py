"""Answers that were recorded before, by us or by others: no model, no network, the same scores.

A line is {"item", "k"?, "question", "answer" or "text"}, and of our own records also "key", which names picture and
question by content. The last line of a question counts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apex_cli.errors import DataError
from apex_cli.evaluation.assets import file_sha256
from apex_cli.evaluation.judges.base import Answer, Query


class Recorded:
    readings, unusual = 1, ()

    def __init__(self, path: Path, name: str):
        self.path, self.name = path, name

    @property
    def identity(self) -> Mapping[str, Any]:
        return {"judge": self.name, "answers": file_sha256(self.path)}

    def open(self) -> None:
        self.rows = dict(self._read())

    def share(self, workers: int) -> None:
        """There is no budget."""

    def estimate(self, queries: Sequence[Query], protocol: str) -> None:
        """Costs nothing."""

    def ask(self, queries: Sequence[Query]) -> Iterator[tuple[Query, Answer]]:
        return ((query, self._find(query)) for query in queries)

    def _find(self, query: Query) -> Answer:
        """By content where the record has it, else by the places of picture and question."""
        picture = query.picture
        places = (query.key, (picture.item.id, picture.k, query.text))
        return next((self.rows[place] for place in places if place in self.rows), self._absent())

    def _absent(self) -> Answer:
        return Answer(error=f"{self.path.name} has no answer to this question", attempts=0)

    def _read(self) -> Iterator[tuple[Any, Answer]]:
        # Bytes are split at ends of lines alone, and a text may hold other separators.
        for number, line in enumerate(self.path.read_bytes().splitlines(), start=1):
            try:
                row = json.loads(line)
                text = row["answer"] if "answer" in row else row["text"]
                if not isinstance(text, str):
                    raise TypeError(f"{json.dumps(text)} is no text")
                answer = Answer(text, row.get("error", ""), 0)
                yield (row.get("key") or (str(row["item"]), int(row.get("k", 0)), row["question"])), answer
            except (ValueError, KeyError, TypeError) as error:
                told = f"{self.path}, line {number}: no answer ({type(error).__name__}: {error})."
                raise DataError(told, 'A line is {"item", "k", "question", "answer"}.') from error
