"""Results as tables: for the terminal, and as CSV, Markdown and LaTeX rows in the column order of the paper.

One column holds one protocol, judge, set of prompts and number of images; anything else is refused. What others
published stands in a block of its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apex_cli.errors import UsageError
from apex_cli.evaluation import published
from apex_cli.evaluation.comparable import conditions, require_equal
from apex_cli.evaluation.records import Interval, Report, Result, write_whole

FID_N = 30_000
OVERALL = "overall"
TITLES = {
    "single_object": "Single Object",
    "two_object": "Two Object",
    "color_attr": "Attribute Binding",
    OVERALL: "Overall",
    "fid": "FID",
    "clip": "CLIP",
    "geneval": "GenEval",
}
SUMMARY = ("fid", "clip", "geneval")
"""Families of protocols in the columns of the paper's Table 1."""
Cells = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Table:
    """Text cells. `notes` stand below: protocols, numbers of images, doubts. `facts`, by column, are the same for all
    rows; CSV has them in each, as it has no notes."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)


def family(protocol: str) -> str:
    """`geneval` of `geneval@hf`; the shapes world has GenEval's tasks."""
    return protocol.partition("@")[0]


def title(protocol: str, found: int) -> str:
    """The name with the number of images; only 30,000 of them make an "FID-30K"."""
    if family(protocol) == "fid" and found >= FID_N:
        return f"{protocol} (FID-30K)"
    return f"{protocol} (N = {found:,})"


def number(value: float | None, interval: Interval | None, digits: int) -> str:
    if value is None:
        return "-"
    between = f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else ""
    return f"{value:.{digits}f}{between}"


def column(report: Report) -> Cells:
    """What the terminal shows of a report: (protocol, row) -> cell."""
    cells: Cells = {}
    for result in report.results.values():
        cells |= {(result.protocol, name): cell for name, cell in _cells(result).items()}
    whole = {
        "seed diversity": number(report.diversity, None, 3),
        "seconds per image": number(report.seconds_per_image, None, 4),
        "NFE, counted": "-" if report.nfe_counted is None else f"{report.nfe_counted:g}",
        "images": f"{report.found}/{report.expected}",
    }
    return cells | {("", name): cell for name, cell in whole.items()}


def _cells(result: Result) -> dict[str, str]:
    if result.status == "skipped":
        return {result.protocol: f"skipped: {result.reason}; {result.remedy}"}
    cells = {result.protocol: standing(result)}
    cells |= {name: number(s.score, s.interval, result.digits) for name, s in result.tasks.items()}
    name = OVERALL if result.overall else f"{result.protocol}, N = {result.found:,}"
    cells[name] = _value(result)
    cells |= {name: value_text(value) for name, value in result.facts.items()}
    if result.overall and result.overall.correlation is not None:
        cells["correlation within a prompt"] = f"{result.overall.correlation:.2f}"
    if result.certificate:
        cells["truth / shuffled"] = f"{result.certificate.ceiling:.3f} / {result.certificate.floor:.3f}"
    return cells


def tier(result: Result) -> str:
    return f"{result.tier}, not comparable" if result.tier == "lite" else result.tier


def standing(result: Result) -> str:
    """What a number is good for: its tier, and whether images are missing."""
    partial = f", partial: {result.found} of {result.expected}" if result.status == "partial" else ""
    return f"{tier(result)}{partial}"


def value_text(value: float | int | str | None) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def chosen(report: Report, suite: str) -> Result | None:
    """The result of a suite as a user calls it: a whole name, or else what stands before "@" or "+"; None where it has
    not scored. Several of one family raise `UsageError`."""
    longer = [name for name in report.results if name.startswith((f"{suite}@", f"{suite}+"))]
    found = [report.results[name] for name in ([suite] if suite in report.results else longer)]
    scored = [result for result in found if result.status != "skipped"]
    if len(scored) > 1:
        raise UsageError(f"'{suite}' is {' and '.join(r.protocol for r in scored)} here.", "Name one with --suite.")
    return scored[0] if scored else None


@dataclass(frozen=True)
class Entry:
    """A number of a column, and whose it is."""

    name: str
    report: Report
    result: Result


def protocol_table(reports: Mapping[str, Report], suite: str) -> Table:
    """The evaluations by name, in the columns of the paper; unequal protocols, judges or numbers are refused."""
    found = {name: chosen(report, suite) for name, report in reports.items()}
    if lacking := [name for name, result in found.items() if result is None]:
        scored = {r.protocol for report in reports.values() for r in report.results.values() if r.status != "skipped"}
        raise UsageError(f"{', '.join(lacking)}: no score of '{suite}'.", f"Scored: {', '.join(sorted(scored))}.")
    entries = [Entry(name, reports[name], result) for name, result in found.items() if result]
    _require_comparable(entries)
    first = entries[0].result
    tasks = list(dict.fromkeys(task for entry in entries for task in entry.result.tasks))
    columns = ("Model", *(TITLES.get(t, t.capitalize()) for t in tasks), TITLES[OVERALL] if tasks else first.protocol)
    rows = tuple((entry.name, *_tasks(entry.result, tasks), _value(entry.result)) for entry in entries)
    note = f"{title(first.protocol, first.found)}, tier: {standing(first)}"
    return Table(columns, rows, (note, *first.notes), _facts(first))


def _tasks(result: Result, tasks: Sequence[str]) -> list[str]:
    scores = [result.tasks[task].score if task in result.tasks else None for task in tasks]
    return [number(score, None, result.digits) for score in scores]


def _value(result: Result) -> str:
    return number(result.value, result.interval, result.digits)


def _facts(result: Result) -> dict[str, str]:
    """What a form without notes has to say in each row."""
    return {
        "protocol": result.protocol,
        "N": str(result.found),
        "expected": str(result.expected),
        "tier": tier(result),
    }


def _require_comparable(column: Sequence[Entry]) -> None:
    first, *others = column
    for other in others:
        require_equal(
            conditions(first.report, first.result),
            conditions(other.report, other.result),
            f"{first.name} and {other.name} share no column",
            "Evaluate all in the same way.",
        )


def summary_table(reports: Mapping[str, Report]) -> Table:
    """The paper's Table 1: a row a model as it was sampled, of evaluations by name that may have different prompts."""
    rows: list[dict[str, Entry]] = []
    for name, report in reports.items():
        found = {kind: Entry(name, report, result) for kind in SUMMARY if (result := chosen(report, kind))}
        if not found:
            raise UsageError(f"{name}: no score of FID, CLIP or GenEval.", "Name another suite with --suite.")
        row = next((row for row in rows if _completes(row, found)), None)
        rows.append(found) if row is None else row.update(found)
    columns = {kind: [row[kind] for row in rows if kind in row] for kind in SUMMARY}
    firsts = {TITLES[kind]: column[0].result for kind, column in columns.items() if column}
    for column in filter(None, columns.values()):
        _require_comparable(column)
    return Table(
        ("Methods", "NFEs", *(TITLES[kind] for kind in SUMMARY)),
        tuple((*_whose(row), *(_value(row[kind].result) if kind in row else "-" for kind in SUMMARY)) for row in rows),
        tuple(f"{kind}: {title(r.protocol, r.found)}, tier: {standing(r)}" for kind, r in firsts.items()),
        {f"{kind} {what}": fact for kind, r in firsts.items() for what, fact in _facts(r).items()},
    )


def _completes(row: Mapping[str, Entry], found: Mapping[str, Entry]) -> bool:
    """Whether the same model was sampled in the same way, for other suites."""
    one, other = (next(iter(entries.values())).report.subject for entries in (row, found))
    return one == other and not row.keys() & found.keys()


def _whose(row: Mapping[str, Entry]) -> tuple[str, str]:
    """The names of the evaluations of a row, and its evaluations of the network."""
    nfe = next(iter(row.values())).report.nfe_counted
    return " + ".join(dict.fromkeys(entry.name for entry in row.values())), "-" if nfe is None else f"{nfe:g}"


def published_table(table: published.Table) -> Table:
    """Numbers of others, labelled so in each row."""
    head = ("Methods", "NFEs") if table.name == "table1" else ("Model",)
    words = {True: " (rewritten prompts)", False: " (plain prompts)", None: ""}
    rows = []
    for row in table.rows:
        nfe = "" if row.nfe is None else str(row.nfe)
        name = row.method + (f" ({nfe}-NFE)" if nfe and len(head) == 1 else "") + words[row.rewritten]
        name += " *" if row.doubt else ""
        cells = ("-" if c not in row.values else f"{row.values[c]:g}" for c in table.columns)
        rows.append((f"{name} [{table.label}]", *([nfe] if len(head) == 2 else []), *cells))
    doubts = [f"* {row.method}: {row.doubt}" for row in table.rows if row.doubt]
    notes = (f"{table.label}: {table.source}", table.protocol, *dict.fromkeys(doubts))
    columns = (*head, *(TITLES.get(c, c.capitalize()) for c in table.columns))
    return Table(columns, tuple(rows), notes, {"source": table.source, "protocol": table.protocol})


def to_csv(table: Table) -> str:
    out = io.StringIO()
    rows = ((*row, *table.facts.values()) for row in table.rows)
    csv.writer(out, lineterminator="\n").writerows([(*table.columns, *table.facts), *rows])
    return out.getvalue()


def to_markdown(table: Table) -> str:
    rows = [table.columns, tuple("---" for _ in table.columns), *table.rows]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes)]) + "\n"


def to_latex(table: Table) -> str:
    """Rows for a `tabular`, notes as comments."""
    lines = [f"% {note}" for note in table.notes]
    lines += [" & ".join(map(_escaped, row)) + r" \\" for row in (table.columns, *table.rows)]
    lines.insert(len(table.notes) + 1, r"\midrule")
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return "".join(f"\\{c}" if c in "&%$#_{}" else c for c in text)


FORMS: dict[str, Callable[[Table], str]] = {"csv": to_csv, "md": to_markdown, "tex": to_latex}


def write(folder: Path, name: str, report: Report) -> None:
    """`PROTOCOL.csv`, `.md` and `.tex` beside the report, of every protocol that has scored, and of no other."""
    for result in report.results.values():
        scored = result.status != "skipped"
        table = protocol_table({name: report}, result.protocol) if scored else None
        for suffix, form in FORMS.items():
            path = folder / f"{result.protocol}.{suffix}"
            write_whole(path, form(table)) if table else path.unlink(missing_ok=True)
