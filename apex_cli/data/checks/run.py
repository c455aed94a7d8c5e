"""The check of a set from its first sample to its page. The set is read and never written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from apex_cli.data.ahead import ahead
from apex_cli.data.checks.alike import SampleIndex
from apex_cli.data.checks.report import Report
from apex_cli.data.checks.rules import RULES, Limits
from apex_cli.data.checks.samples import Sample, Source
from apex_cli.data.checks.seen import Seen, see
from apex_cli.data.flaws import Flaw
from apex_cli.records import Progress


def check(source: Source, name: str, out: Path, limits: Limits) -> Iterator[Progress]:
    """Check a set and write report.json, quarantine.jsonl, remarks.jsonl and index.html to `out`.

    `name`: what the report calls it.
    """
    total = len(source)
    with closing(SampleIndex(getattr(source, "again", None))) as index, Report(out) as report:
        for done, (sample, seen) in enumerate(ahead(_look, source), start=1):
            report.add(sample, seen, [flaw for rule in RULES for flaw in rule(sample, seen, limits)])
            index.add(sample, seen)
            yield Progress("check samples", done, max(done, total))
        for repeat in index.repeats():
            report.repeat(repeat, index.picture)
        report.finish(name, source.kind, limits)


def _look(sample: Sample) -> tuple[Sample, Seen | Flaw | None]:
    return sample, see(sample)
