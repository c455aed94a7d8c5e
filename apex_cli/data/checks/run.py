"""The check of a set from its first sample to its page. The set is read and never written to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from apex_cli.data.ahead import ahead
from apex_cli.data.checks.alike import Ledger
from apex_cli.data.checks.report import Report
from apex_cli.data.checks.rules import RULES, Limits
from apex_cli.data.checks.samples import Sample, open_source
from apex_cli.data.checks.seen import Seen, see
from apex_cli.data.flaws import Flaw
from apex_cli.errors import DataError, UsageError
from apex_cli.records import Progress


def check(path: Path, out: Path, limits: Limits, column: str | None = None) -> Iterator[Progress]:
    """Check the set at `path` and write report.json, quarantine.jsonl, remarks.jsonl and index.html to `out`.

    `column`: where a metadata file keeps captions. Raises `DataError` where there is no set to read.
    """
    if not path.is_dir():
        raise DataError(f"The folder '{path}' does not exist.", "Give a folder of pictures or of tar shards.")
    if out.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"'{out}' lies inside the set, which a check leaves as it is.", "Choose another --out.")
    source = open_source(path, column)
    total = len(source)
    with closing(Ledger()) as ledger, Report(out) as report:
        for done, (sample, seen) in enumerate(ahead(_look, source), start=1):
            report.add(sample, seen, [flaw for rule in RULES for flaw in rule(sample, seen, limits)])
            ledger.add(sample, seen)
            yield Progress("check samples", done, max(done, total))
        for repeat in ledger.repeats():
            report.repeat(repeat)
        report.finish(path, source.kind, limits)


def _look(sample: Sample) -> tuple[Sample, Seen | Flaw | None]:
    return sample, see(sample)
