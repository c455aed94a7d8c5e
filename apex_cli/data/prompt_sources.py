"""`[prompts]`: several sources become one list without repetitions and without what is held out for evaluation.

FILE                    .txt, .jsonl, .csv or .parquet
shapes:SPLIT            the prompts of the shapes world
captions:SPLIT          captions of the shapes world as training draws them, endless
posters:SEED            the poster grammar of `data/posters.py`, endless
hub:OWNER/NAME[@SPLIT]  a column of a data set on the hub, streamed
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from pydantic import Field, PositiveInt

from apex_cli.config import Section
from apex_cli.data import prompt_files
from apex_cli.data.similarity import HeldOut, near_repetitions
from apex_cli.errors import ApexError, DataError, SetupError, UsageError
from apex_cli.extras import install

NEAR = 0.8
"""Jaccard index from which the report speaks of near repetitions, where the recipe does not say."""


class SourceConfig(Section):
    source: str = Field(min_length=1)
    column: str | None = None
    limit: PositiveInt | None = None
    """Only the first so many prompts."""


class PromptsConfig(Section):
    sources: tuple[SourceConfig, ...] = Field(default=(SourceConfig(source="shapes:train"),), min_length=1)
    column: str | None = None
    """Field of tables with the prompts, where a source names none; None takes `prompt`, `text` or `caption`."""
    limit: PositiveInt | None = None
    """Only the first so many prompts of all."""
    keep_repetitions: bool = False
    """Whether a prompt may come again; each picture has a noise of its own."""
    near_repetitions: float | None = Field(default=None, gt=0, le=1)
    """Leave out a prompt that resembles an earlier one so much: Jaccard index of their runs of three words."""
    held_out: tuple[str, ...] = ()
    """`geneval`, or sources of prompts for evaluation: what repeats, resembles or contains one of them is left out."""
    held_out_from: float = Field(default=0.7, gt=0, le=1)
    """Jaccard index from which a prompt resembles one that is held out."""


ENDLESS = ("posters:", "captions:")


@dataclass(frozen=True)
class Match:
    """A prompt that met one of a benchmark, as `exact`, `near` or `contains`."""

    benchmark: str
    kind: str
    prompt: str
    met: str


@dataclass(frozen=True)
class Prompts:
    """`texts` are what is left; the other numbers count what is not. `near` is counted even where it is kept."""

    texts: list[str]
    read: dict[str, int]
    """Source -> distinct prompts taken from it."""
    repeated: int
    """Empty or repeated."""
    near: int
    matches: list[Match]
    held_out: dict[str, int]
    """Benchmark -> its prompts."""


def gather(config: PromptsConfig, benchmarks: Mapping[str, Sequence[str]], count_near: bool = False) -> Prompts:
    """Read all sources; `benchmarks` are the prompts that `held_out` names. Raises `DataError` where nothing is left.

    `count_near`: look for near repetitions even if they are kept, which takes a fraction of a millisecond each.
    """
    texts: list[str] = []
    read, repeated = {}, 0
    for source in config.sources:
        limit = source.limit or config.limit
        if limit is None and source.source.startswith(ENDLESS):
            raise UsageError(f"'{source.source}' has no end.", "Say how many: --limit, or limit beside the source.")
        taken, dropped = first(lines(source.source, source.column or config.column), limit, config.keep_repetitions)
        if not taken:
            raise DataError(f"'{source.source}' holds no prompt.", "Give a file with one prompt a line.")
        read[source.source] = read.get(source.source, 0) + len(taken)
        repeated += dropped
        texts += taken
    if not config.keep_repetitions:
        known = len(texts)
        texts = list(dict.fromkeys(texts))
        repeated += known - len(texts)
    wanted = config.near_repetitions or (NEAR if count_near else None)
    near = near_repetitions(texts, wanted) if wanted else {}
    if config.near_repetitions:
        texts = [text for i, text in enumerate(texts) if i not in near]
    matches = list(_matches(texts, benchmarks, config.held_out_from))
    met = {match.prompt for match in matches}
    texts = [text for text in texts if text not in met][: config.limit]
    if not texts:
        raise DataError("Every prompt is held out for evaluation.", "Give other prompts, or hold out less.")
    return Prompts(texts, read, repeated, len(near), matches, {name: len(rows) for name, rows in benchmarks.items()})


def _matches(texts: Sequence[str], benchmarks: Mapping[str, Sequence[str]], threshold: float) -> Iterator[Match]:
    for name, rows in benchmarks.items():
        held = HeldOut(rows, threshold)
        for text in texts:
            if match := held.match(text):
                yield Match(name, match[0], text, rows[match[1]])


def first(source: Iterable[str], limit: int | None, repetitions: bool = False) -> tuple[list[str], int]:
    """The first `limit` lines, white space as one blank, and how many that are empty or repeated came between."""
    found: list[str] = []
    known: set[str] = set()
    seen = 0
    for line in source:
        seen += 1
        text = " ".join(line.split())
        if text and (repetitions or text not in known):
            found.append(text)
            known.add(text)
        if len(found) == limit:
            break
    return found, seen - len(found)


def lines(source: str, column: str | None = None) -> Iterable[str]:
    """The prompts of one source as they stand there. Raises `UsageError`, `DataError` or `SetupError`."""
    kind, colon, rest = source.partition(":")
    return KINDS[kind](rest, column) if colon and kind in KINDS else prompt_files.lines(source, column)


def _shapes(split: str, _: str | None) -> Iterator[str]:
    from apex_cli.worlds.shapes.grammar import prompts

    return (prompt.text for prompt in prompts(split))


def _captions(split: str, _: str | None) -> Iterator[str]:
    from apex_cli.worlds.shapes.grammar import caption

    return (caption(split, 0, row).text for row in count())


def _posters(seed: str, _: str | None) -> Iterator[str]:
    from apex_cli.data.posters import posters

    if not seed.isdecimal():
        raise UsageError(f"'posters:{seed}' has no seed.", "Write a number, e.g. posters:0.")
    return posters(int(seed))


def _hub(name: str, column: str | None) -> Iterator[str]:
    name, _, split = name.partition("@")
    try:
        import datasets
    except ImportError as error:
        raise SetupError("Data sets of the hub need the library datasets.", install("data")) from error
    try:
        rows: Any = datasets.load_dataset(name, split=split or "train", streaming=True)
        head = next(iter(rows), {})
        picked = prompt_files.column_of(list(head), column, name)
        yield from (str(row[picked] or "") for row in rows.select_columns([picked]))
    except ApexError:
        raise
    except Exception as error:  # the client raises whatever its network, its parsers and the hub come up with
        told = f"The data set '{name}' could not be read: {(str(error).splitlines() or [type(error).__name__])[0]}"
        remedy = "Check its id and the network (HF_HUB_OFFLINE=1 forbids it), or give a file of its prompts."
        raise SetupError(told, remedy) from error


KINDS: dict[str, Callable[[str, str | None], Iterable[str]]] = {
    "shapes": _shapes,
    "captions": _captions,
    "posters": _posters,
    "hub": _hub,
}
