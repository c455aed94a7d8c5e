"""Several data sets as one, their rows one behind the other; how often each comes is a matter of weights.

[data]
name = "mixture"
sources = [{ name = "folder", path = "data/mine", weight = 3 }, { name = "parquet", path = "data/theirs" }]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Any, Literal, Union

import numpy as np
import torch
from pydantic import Field, PositiveFloat, create_model
from torch import Tensor

from apex_cli import registry
from apex_cli.config import Section
from apex_cli.data.pools import Pool, pools
from apex_cli.flow.condition import Cond

ALONE = ("mixture", "modes")
"""Data that cannot be a source: it has no pictures of its own."""
OWN = {"name", "weight"}
"""Keys of a source that are not its reader's."""


def _settings(name: str) -> Any:
    """The settings of the reader `name`, with those of a source."""
    base = registry.resolve("data", name).Config
    own: dict[str, Any] = {"name": (Literal[name], ...), "weight": (PositiveFloat, 1.0)}
    return create_model(f"{base.__name__}Source", __base__=base, **own)


_READERS = tuple(_settings(name) for name in registry.names("data") if name not in ALONE)
_Source: Any = Annotated[Union[_READERS], Field(discriminator="name")]  # noqa: UP007  # pyright: ignore


class MixtureConfig(Section):
    sources: tuple[_Source, ...] = Field(min_length=1)  # pyright: ignore[reportInvalidTypeForm]
    """Each as its own [data] would be, with a `weight`: its part of the samples, whatever its size. At 3 and 1 three of
    four samples come from the first; the second goes through its epochs meanwhile, however many those are."""


class Mixture:
    """`prompts(rows)` and `pixels(rows)` of all `sources`."""

    Config = MixtureConfig

    def __init__(self, config: Any, sources: Sequence[Any]):
        """`sources`: the data sets of `config.sources`."""
        self._config, self.sources = config, list(sources)
        self._ends = np.cumsum([len(source) for source in sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over those of the sources."""
        return hashlib.sha256(json.dumps([source.fingerprint for source in self.sources]).encode()).hexdigest()

    def over(self, sources: Sequence[Any]) -> Mixture:
        """The same mixture of what is left of its sources."""
        return Mixture(self._config, sources)

    def align(self, multiple: int) -> None:
        for source in self.sources:
            if hasattr(source, "align"):
                source.align(multiple)

    @cached_property
    def pools(self) -> list[Pool]:
        """Those of the sources, each source with its weight in all."""
        found, first = [], 0
        for source, asked in zip(self.sources, self._config.sources, strict=True):
            own = pools(source)
            part = asked.weight / sum(pool.weight for pool in own)
            found += [Pool(pool.rows + first, pool.weight * part, pool.size) for pool in own]
            first += len(source)
        return found

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return self._ask(rows, lambda source, own: source.prompts(own))

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1]."""
        return torch.stack(self._ask(rows, lambda source, own: list(source.pixels(own))))

    def stored_texts(self, reader: str) -> Callable[[str], Cond | None] | None:
        """Finds the embedding of a prompt in the sources that have some."""
        finds = [source.stored_texts for source in self.sources if hasattr(source, "stored_texts")]
        asked = [find for find in (find(reader) for find in finds) if find]
        return (lambda prompt: next(filter(None, (find(prompt) for find in asked)), None)) if asked else None

    def _ask(self, rows: Sequence[int], ask: Callable[[Any, list[int]], list[Any]]) -> list[Any]:
        """Answers in the order of `rows`; each source is asked once for all of its own."""
        wanted = np.asarray(rows)
        owners = np.searchsorted(self._ends, wanted, side="right")
        answers: list[Any] = [None] * len(wanted)
        for owner in np.unique(owners):
            places = np.flatnonzero(owners == owner)
            source = self.sources[owner]
            own = (wanted[places] - (self._ends[owner] - len(source))).tolist()
            for place, answer in zip(places, ask(source, own), strict=True):
                answers[place] = answer
        return answers
