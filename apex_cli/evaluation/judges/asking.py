"""The stage of answers: questions to a judge, what it wrote word for word, and what could be read from it.

An answer that cannot be read is asked for again where the judge may give another. What is still missing then is an
error of the picture: counted, reported, and asked again by the next run; nothing is dropped in silence.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apex_cli.errors import SetupError, UsageError
from apex_cli.evaluation.base import Item, Observation, Picture
from apex_cli.evaluation.judges.base import Answer, Estimate, Judge, Query, append, record_row
from apex_cli.evaluation.observations import Store

Read = Callable[[str], Any]
"""Text -> a JSON value, or None where it cannot be read."""


class Answers:
    """`texts`: (system, question) pairs of a prompt; `views`: the pictures that one picture stands for, itself or the
    cells of a grid, `cells` in number. An observation is {"answers": [[value of each question] of each view], "raw":
    [...]}."""

    name, uses = "answers", ()

    def __init__(
        self,
        judge: Judge,
        texts: Callable[[Item], Sequence[tuple[str, str]]],
        read: Read,
        views: Callable[[Picture], Sequence[Picture]] = lambda picture: [picture],
        cells: int = 1,
        record: Path | None = None,
        batch: int = 8,
    ):
        self.judge, self.texts, self.read, self.views, self.cells = judge, texts, read, views, cells
        self.record, self.batch = record, batch

    @property
    def identity(self) -> Mapping[str, Any]:
        return dict(self.judge.identity)

    def question(self, item: Item) -> str:
        return hashlib.sha256(json.dumps(list(self.texts(item))).encode()).hexdigest()

    def estimate(self, pictures: Sequence[Picture], protocol: str) -> Estimate | None:
        """What asking about them will cost; None where nobody is paid."""
        asked = [Query(p, text, system) for p in pictures for system, text in self.texts(p.item)]
        return self.judge.estimate(asked * self.cells, protocol)

    def open(self) -> None:
        self.judge.open()

    def prepare(self, picture: Picture) -> Sequence[Picture]:
        return self.views(picture)

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        asked = [
            [[Query(view, text, system) for system, text in self.texts(picture.item)] for view in views]
            for picture, views in zip(pictures, prepared, strict=True)
        ]
        answers = self._ask([query for one in asked for view in one for query in view])
        return [self._observation(one, answers) for one in asked]

    def _ask(self, queries: Sequence[Query]) -> dict[str, list[Answer]]:
        """Query key -> its answers, the last of which is the best there is."""
        got: dict[str, list[Answer]] = {}
        open_ = list({query.key: query for query in queries}.values())
        for _ in range(self.judge.readings):
            try:
                for query, answer in self.judge.ask(open_):
                    if self.record:  # at once: it may have been paid for
                        append(self.record, [record_row(query, answer, self.judge.name)])
                    got.setdefault(query.key, []).append(answer)
            except SetupError:
                if all(answer.error for answers in got.values() for answer in answers):
                    raise
                break  # what was answered is kept; the next pictures meet the refusal
            open_ = [q for q in open_ if not (last := got[q.key][-1]).error and self.read(last.text) is None]
        return got

    def _observation(self, views: Sequence[Sequence[Query]], got: Mapping[str, Sequence[Answer]]) -> Observation:
        values = [[self._value(got[query.key][-1]) for query in view] for view in views]
        raw = [[answer.to_json() for answer in got[query.key]] for view in views for query in view]
        best = [got[query.key][-1] for view in views for query in view]
        lacking = [answer for answer in best if self._value(answer) is None]
        said: dict[str, Any] = {"answers": values, "raw": raw}
        return said | {"error": self._told(lacking)} if lacking else said

    def _value(self, answer: Answer) -> Any:
        return None if answer.error else self.read(answer.text)

    def _told(self, lacking: Sequence[Answer]) -> str:
        first, readings = lacking[0], self.judge.readings
        times = f" after {readings} answers" * (readings > 1)
        why = first.error or f"unreadable{times}: '{first.text[:60]}'"
        return why if len(lacking) == 1 else f"{len(lacking)} questions without an answer, the first: {why}"


def estimates(
    protocol: str, stores: Mapping[str, Store], pictures: Sequence[Picture], workers: int = 1
) -> Iterator[Estimate]:
    """What judges who are paid will cost for what they have not answered yet, where `workers` share the budget; raises
    `UsageError` after one that passes what is left of this one's share, before anything is asked."""
    for store in stores.values():
        missing = [picture for picture in pictures if store.lacks(picture)]
        if not missing or not isinstance(store.stage, Answers):
            continue
        store.stage.judge.share(workers)
        if estimate := store.stage.estimate(missing, protocol):
            yield estimate
            if estimate.passes_budget and not estimate.until_spent:
                raise UsageError(
                    f"Nothing was asked, because it may cost more than is left to spend. {estimate}.",
                    "Raise judge.endpoint.budget, lower .max_tokens, or set .until_spent=true to begin all the same.",
                )


def tokens(observations: Sequence[Observation]) -> tuple[int, int]:
    """Read and written by the judge, over all attempts that brought an answer."""
    pairs = [answer["tokens"] for said in observations for attempts in said["raw"] for answer in attempts]
    return sum(pair[0] for pair in pairs), sum(pair[1] for pair in pairs)
