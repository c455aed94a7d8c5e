"""What a run leaves out: broken samples, found before its first step; with too many of them it refuses the set.

A data source takes part by `config` (a `ScreenConfig` with `path`), `name(row)` and `probe(row)`; see `PictureData`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from torch import Tensor

from apex_cli.config import Section
from apex_cli.data import store
from apex_cli.data.ahead import ahead
from apex_cli.data.flaws import Flaw
from apex_cli.data.pictures import Source, flaw_of
from apex_cli.data.pools import Pool, pools
from apex_cli.data.shards import write_whole
from apex_cli.errors import DataError
from apex_cli.flow.condition import Cond

FORMAT = 2
"""Raised when something else is broken than before: part of the key of what is kept on disk."""
NAMED = 3
"""Samples that an error names before it counts."""

Finding = dict[str, Any]
"""`row`, `sample`, `reason`, `told`; in quarantine.jsonl also the `path` of the set."""


class ScreenConfig(Section):
    max_broken: float = Field(default=0.01, ge=0, le=1)
    """Largest share of broken samples that a run leaves out; with more it does not start."""


def look(data: Any, rows: Sequence[int]) -> Iterator[Finding | None]:
    """What is wrong with each of `rows`, in their order; `data` is asked in that order, threads decode."""

    def finding(probed: tuple[int, Source | Flaw]) -> Finding | None:
        row, found = probed
        flaw = found if isinstance(found, Flaw) else flaw_of(found)
        return flaw and {"row": row, "sample": data.name(row), "reason": flaw.reason, "told": flaw.told}

    return ahead(finding, ((row, data.probe(row)) for row in rows))


def refuse(broken: Sequence[tuple[str, Flaw]], total: int, config: Any) -> None:
    """Raise `DataError` if `broken` (name, flaw) of `total` samples are more than `config` allows, or all."""
    share = len(broken) / total
    if share <= config.max_broken and len(broken) < total:
        return
    first = "; ".join(f"{name}: {flaw.told}" for name, flaw in broken[:NAMED])
    more = f"; and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
    told = f"{len(broken)} of {total} samples in '{config.path}' are broken ({share:.2%}; data.max_broken allows "
    raise DataError(
        f"{told}{config.max_broken:.2%}): {first}{more}.",
        f"`apex data check {config.path}` names all of them; mend or remove them, or set data.max_broken.",
    )


def recall(data: Any) -> list[Finding] | None:
    """What an earlier look at the same bytes has found."""
    path = _memory(data)
    if not path.is_file():
        return None
    path.touch()  # `apex cache gc` asks when it was last used
    return json.loads(path.read_text(encoding="utf-8"))["found"]


def remember(data: Any, found: Sequence[Finding]) -> None:
    path = _memory(data)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"path": data.config.path, "samples": len(data), "found": list(found)}
    write_whole(path, json.dumps(facts, ensure_ascii=False).encode())


def write(path: Path, found: Sequence[Finding]) -> None:
    """One finding a line; `path` is there whole or not at all."""
    write_whole(path, "".join(f"{json.dumps(finding, ensure_ascii=False)}\n" for finding in found).encode())


def _memory(data: Any) -> Path:
    key = hashlib.sha256(f"{FORMAT} {data.fingerprint}".encode()).hexdigest()[:24]
    return store.cache_folder() / store.SCREENED / f"{key}.json"


class Kept:
    """`data` without some of its rows; row i is the i-th that is left."""

    def __init__(self, data: Any, without: Sequence[int]):
        self._data, self._without = data, list(without)
        self._rows = np.delete(np.arange(len(data)), self._without)

    def __len__(self) -> int:
        return len(self._rows)

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(json.dumps([self._data.fingerprint, self._without]).encode()).hexdigest()

    @cached_property
    def pools(self) -> list[Pool]:
        """Those of `data`; one that comes as often as it has rows comes as often as it has rows left."""
        places = np.full(len(self._data), -1)
        places[self._rows] = np.arange(len(self))
        found = [(pool, left[left >= 0]) for pool in pools(self._data) for left in [places[pool.rows]]]
        return [Pool(left, pool.weight * len(left) / len(pool.rows), pool.size) for pool, left in found if len(left)]

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return self._data.prompts(self._of(rows))

    def pixels(self, rows: Sequence[int]) -> Tensor:
        return self._data.pixels(self._of(rows))

    def noises(self, rows: Sequence[int], shape: Sequence[int]) -> Tensor:
        return self._data.noises(self._of(rows), shape)

    def stored_latents(self, *asked: Any) -> Callable[[Sequence[int]], Tensor] | None:
        find = getattr(self._data, "stored_latents", None)
        read = find and find(*asked, rows=self._rows.tolist())
        return read and (lambda rows: read(self._of(rows)))

    def stored_texts(self, reader: str) -> Callable[[str], Cond | None] | None:
        find = getattr(self._data, "stored_texts", None)
        return find and find(reader, rows=self._rows.tolist())

    def _of(self, rows: Sequence[int]) -> list[int]:
        return [int(self._rows[int(row)]) for row in rows]
