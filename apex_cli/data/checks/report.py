"""What a check has found: counts, a line for every finding, and a page with thumbnails by reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

from apex_cli import __version__
from apex_cli.data import pictures
from apex_cli.data.checks.alike import Repeat
from apex_cli.data.checks.rules import Limits
from apex_cli.data.checks.samples import Sample
from apex_cli.data.checks.seen import THUMBNAIL, Seen, thumbnail
from apex_cli.data.flaws import REASONS, Flaw
from apex_cli.data.pictures import Source as Picture
from apex_cli.data.shards import write_whole
from apex_cli.data.store import draft, settle
from apex_cli.errors import DataError
from apex_cli.pages import data_url, render

FORMAT = 1
"""Of report.json; raised when a key changes its meaning."""
REPORT, QUARANTINE, REMARKS, PAGE = "report.json", "quarantine.jsonl", "remarks.jsonl", "index.html"
FIRST = 20
"""Samples of a reason that report.json names."""
SHOWN = 24
"""Samples of a reason on the page."""


@dataclass
class Report:
    """Grows by `add` and `repeat`; nothing is kept of a sample beyond the first of each reason."""

    out: Path
    samples: int = 0
    broken: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)
    cards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    modes: Counter[str] = field(default_factory=Counter)
    formats: Counter[str] = field(default_factory=Counter)

    def __enter__(self) -> Report:
        self.out.mkdir(parents=True, exist_ok=True)
        self._drafts = [draft(self.out / QUARANTINE), draft(self.out / REMARKS)]
        with ExitStack() as stack:
            self._files = [stack.enter_context(path.open("w", encoding="utf-8")) for path in self._drafts]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for path in self._drafts:
            path.unlink(missing_ok=True)

    def add(self, sample: Sample, seen: Seen | Flaw | None, flaws: Sequence[Flaw]) -> None:
        self.samples += 1
        self.broken += any(flaw.broken for flaw in flaws)
        if isinstance(seen, Seen):
            self.modes[seen.mode] += 1
            self.formats[seen.format] += 1
        for flaw in flaws:
            if self._tell(sample.name, flaw):
                shown = [data_url(thumbnail(seen.small), "webp")] if isinstance(seen, Seen) else []
                self._show(sample.name, flaw, shown, sample.caption)

    def repeat(self, repeat: Repeat, picture: Callable[[int], Picture | Flaw | None]) -> None:
        """`picture`: that of a row of the ledger."""
        if self._tell(repeat.sample, repeat.flaw):
            self._show(repeat.sample, repeat.flaw, list(_thumbnails(map(picture, repeat.rows))))

    def _tell(self, sample: str, flaw: Flaw) -> bool:
        """Write a finding down; whether the page has room for it."""
        file: TextIO = self._files[0 if flaw.broken else 1]
        file.write(json.dumps({"sample": sample, **asdict(flaw)}, ensure_ascii=False) + "\n")
        self.counts[flaw.reason] += 1
        first = self.first.setdefault(flaw.reason, [])
        if len(first) < FIRST:
            first.append(sample)
        return len(self.cards.get(flaw.reason, ())) < SHOWN

    def _show(self, sample: str, flaw: Flaw, shown: list[str], caption: str | None = None) -> None:
        card = {"tag": flaw.reason, "name": sample, "told": flaw.told, "urls": shown, "caption": caption or ""}
        self.cards.setdefault(flaw.reason, []).append(card)

    def finish(self, path: str, kind: str, limits: Limits) -> None:
        """Bring all files to their places, report.json last."""
        self._stack.close()
        for temporary, name in zip(self._drafts, (QUARANTINE, REMARKS), strict=True):
            settle(temporary, self.out / name)
        told = {
            reason: {"broken": row.broken, "count": self.counts[reason], "meaning": row.meaning, "first": first}
            for reason, row in REASONS.items()
            if (first := self.first.get(reason))
        }
        facts = {
            "format": FORMAT,
            "apex": __version__,
            "path": path,
            "kind": kind,
            "samples": self.samples,
            "broken": self.broken,
            "share": self.broken / max(1, self.samples),
            "limits": {"side": limits.side, "tokens": limits.tokens, "counted": "tokens" if limits.count else "words"},
            "reasons": told,
            "modes": dict(self.modes.most_common()),
            "formats": dict(self.formats.most_common()),
        }
        cards = [card for reason in told for card in self.cards[reason]]
        template = Path(__file__).with_name("check.html.jinja")
        render(template, self.out / PAGE, report=facts, cards=cards, shown=SHOWN, width=THUMBNAIL)
        write_whole(self.out / REPORT, json.dumps(facts, indent=1, ensure_ascii=False).encode())


def _thumbnails(found: Iterable[Picture | Flaw | None]) -> Iterator[str]:
    for picture in found:
        if picture is None or isinstance(picture, Flaw):
            continue
        try:
            image = pictures.read_rgb(picture)
        except DataError:  # one with the same caption, refused itself
            continue
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        yield data_url(thumbnail(image), "webp")


def read_report(out: Path) -> dict[str, Any]:
    return json.loads((out / REPORT).read_text(encoding="utf-8"))
