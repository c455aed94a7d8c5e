"""Runs evaluations with their progress on stderr, and shows what came of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from apex_cli.commands._progress import drawn
from apex_cli.commands._ui import say, table

if TYPE_CHECKING:
    from apex_cli.errors import ApexError
    from apex_cli.evaluation.compare import Comparison
    from apex_cli.evaluation.jobs import Source
    from apex_cli.evaluation.judges.base import Estimate
    from apex_cli.evaluation.ledger import Shard
    from apex_cli.evaluation.records import Report
    from apex_cli.evaluation.run import Failure
    from apex_cli.evaluation.settings import EvalConfig


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: `name` for people, e.g. `shapes_student 1 NFE`."""

    name: str
    folder: Path
    report: Report
    estimates: list[Estimate] = field(default_factory=list)
    """What judges were expected to cost, told before they were asked."""
    failures: list[Failure] = field(default_factory=list)
    """Protocols that gave up."""

    @property
    def measured(self) -> bool:
        """Whether any suite has scored, so that the folder holds this report."""
        return any(result.status != "skipped" for result in self.report.results.values())


@dataclass(frozen=True)
class Compared:
    name: str
    comparison: Comparison
    page: Path


@dataclass(frozen=True)
class Verdict:
    """What the exit code says. `errors`: of protocols that gave up and of a comparison; `refused`: required suites that
    were skipped; `nothing`: every suite was; `below`: evaluations under --min-overall."""

    errors: list[ApexError]
    refused: list[str]
    nothing: bool
    below: list[str]

    def leave(self, quiet: bool) -> None:
        """Raise the error of the verdict; `quiet`: only its exit code, as the JSON document has told it."""
        from apex_cli.errors import DataError, RegressionFound, SetupError

        error = None
        if self.errors:
            error = self.errors[0]
        elif self.refused:
            told = f"Skipped although required: {', '.join(self.refused)}."
            error = SetupError(told, "The reason stands beside each; `apex eval prepare` says how to get files.")
        elif self.nothing:
            error = DataError("Every suite was skipped.", "The reason stands beside each.")
        elif self.below:
            error = RegressionFound(f"Overall is too low: {'; '.join(self.below)}.", "Look at gallery.html.")
        if error and quiet:
            raise typer.Exit(error.exit_code)
        if error:
            raise error


def run(
    source: Source, protocols: Sequence[Any], config: EvalConfig, shard: Shard, certify: bool
) -> Iterator[Evaluated]:
    """One evaluation a prompt set; none where other workers are not done yet. Raises the error of a protocol that gave
    up where that leaves no report."""
    from apex_cli.evaluation import gallery, tables
    from apex_cli.evaluation.jobs import group
    from apex_cli.evaluation.judges.base import Estimate
    from apex_cli.evaluation.records import Report
    from apex_cli.evaluation.run import Failure, evaluate

    unreported: list[Failure] = []
    for job in group(source, protocols, config, shard, certify):
        if len(job.skipped) < len(job.protocols):
            say(f"{source.name}: {job.folder}")
        estimates, failures, report = [], [], None
        for event in drawn(evaluate(job), source.name):
            match event:
                case Estimate():
                    say(str(event))
                    estimates.append(event)
                case Failure():
                    say(f"{event.protocol} gives up: {event.error.message}")
                    failures.append(event)
                case Report():
                    report = event
        if report is None:
            unreported += failures
            continue
        made = Evaluated(source.name, job.folder, report, estimates, failures)
        if made.measured:
            tables.write(job.folder, source.name, report)
            gallery.write_gallery(job.folder)
        yield made
    if unreported:
        raise unreported[0].error


def others(
    place: str, protocols: Sequence[Any], config: EvalConfig, out: Path | None, certify: bool
) -> list[Evaluated]:
    """The second side of a comparison: read where it is an evaluation, made where it is a model."""
    from apex_cli.build import evaluation
    from apex_cli.evaluation.ledger import Shard
    from apex_cli.evaluation.records import REPORT, read_report

    folder = Path(place)
    if (folder / REPORT).is_file():
        return [Evaluated(folder.name, folder, read_report(folder))]
    return list(run(evaluation.source(place, out), protocols, config, Shard(), certify))


def compared(done: Sequence[Evaluated], others: Sequence[Evaluated]) -> list[Compared]:
    """Every evaluation against every other one that has its prompts; raises `UsageError` where they do not fit."""
    from apex_cli.errors import UsageError
    from apex_cli.evaluation import compare, gallery

    pairs = [(a, b) for a in done for b in others]
    apart = [(a, b) for a, b in pairs if a.folder.resolve() != b.folder.resolve()]
    same = [(a, b) for a, b in apart if a.report.setting.prompts_sha256 == b.report.setting.prompts_sha256]
    if not same and len(apart) < len(pairs):
        raise UsageError("--compare: an evaluation would be compared with itself.", "Name another one, or a model.")
    made = []
    for a, b in same or apart[:1]:  # where none has its prompts, this says what differs
        comparisons = compare.compare(a.folder, b.folder) if a.measured and b.measured else []
        if not comparisons:
            say(f"{a.name} and {b.name} have no suite in common that has scored single images.")
            continue
        page = gallery.write_comparison(a.folder, b.folder, (a.name, b.name))
        made += [Compared(f"{a.name} against {b.name}", comparison, page) for comparison in comparisons]
    return made


def verdict(
    done: Sequence[Evaluated], errors: Sequence[ApexError], least: float | None, required: Sequence[str]
) -> Verdict:
    """`required`: names of protocols."""
    results = [(e, result) for e in done for result in e.report.results.values()]
    low = [
        f"{e.name}, {r.protocol} {r.overall.score:.3f} is below {least:g}"
        for e, r in results
        if least is not None and r.overall and r.overall.score < least
    ]
    skipped = [r.protocol for _, r in results if r.status == "skipped"]
    refused = [name for name in required if name in skipped]
    return Verdict(list(errors), refused, len(skipped) == len(results), low)


def document(evaluations: Sequence[Evaluated], comparisons: Sequence[Compared], verdict: Verdict) -> dict[str, Any]:
    """The JSON document."""
    from apex_cli.evaluation.gallery import GALLERY

    return {
        "evaluations": [
            {
                "name": e.name,
                "folder": str(e.folder),
                "gallery": str(e.folder / GALLERY),
                "estimates": [estimate.to_json() for estimate in e.estimates],
                **e.report.model_dump(mode="json"),
            }
            for e in evaluations
        ],
        "comparisons": [
            {"name": c.name, "gallery": str(c.page), **c.comparison.model_dump(mode="json")} for c in comparisons
        ],
        "below": verdict.below,
        "required_but_skipped": verdict.refused,
        "failed": [failure.protocol for e in evaluations for failure in e.failures],
    }


def show(evaluations: Sequence[Evaluated], comparisons: Sequence[Compared]) -> None:
    """A table a prompt set with a column for each evaluation, a line for each comparison, and the paths."""
    from apex_cli.evaluation.gallery import GALLERY
    from apex_cli.evaluation.records import REPORT

    for sha in dict.fromkeys(e.report.setting.prompts_sha256 for e in evaluations):
        _table([e for e in evaluations if e.report.setting.prompts_sha256 == sha])
    for c in comparisons:
        found = c.comparison
        typer.echo(f"{c.name}, {found.protocol}, {found.paired}: {found.overall}\n{c.page}")
    for e in evaluations:
        for flaw in e.report.flaws[:5]:
            say(f"{flaw.kind}: {flaw.name} {flaw.detail}")
        if len(e.report.flaws) > 5:
            say(f"... and {len(e.report.flaws) - 5} more in {e.folder / REPORT}")
        if e.measured:
            typer.echo(f"{e.folder / REPORT}\n{e.folder / GALLERY}")


def _table(evaluations: Sequence[Evaluated]) -> None:
    from apex_cli.evaluation.tables import column

    columns = [column(e.report) for e in evaluations]
    rows = list(dict.fromkeys(name for column in columns for name in column))
    asked = evaluations[0].report.setting
    head = [f"{asked.prompt_set}, {asked.prompts} prompts" if asked.prompts else "no prompts"]
    table([*head, *(e.name for e in evaluations)], [[row[-1], *(c.get(row, "-") for c in columns)] for row in rows])
