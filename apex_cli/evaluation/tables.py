"""Results as tables: for the terminal, and as CSV, Markdown and LaTeX rows in the column order of the paper.

One table holds one protocol and one number of images; anything else is refused. What others published stands in a block
of its own.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from apex_cli.errors import UsageError
from apex_cli.evaluation import published
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
    """Text cells. `notes` stand below: protocols, numbers of images, doubts."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


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
    partial = f", partial: {result.found} of {result.expected}" if result.status == "partial" else ""
    tier = {"smoke": "", "lite": ", not comparable"}.get(result.tier, "")
    cells = {result.protocol: f"{result.tier}{tier}{partial}"}
    cells |= {name: number(s.score, s.interval, result.digits) for name, s in result.tasks.items()}
    name = OVERALL if result.overall else f"{result.protocol}, N = {result.found:,}"
    cells[name] = number(result.value, result.interval, result.digits)
    cells |= {name: value_text(value) for name, value in result.facts.items()}
    if result.overall and result.overall.correlation is not None:
        cells["correlation within a prompt"] = f"{result.overall.correlation:.2f}"
    if result.certificate:
        cells["truth / shuffled"] = f"{result.certificate.ceiling:.3f} / {result.certificate.floor:.3f}"
    return cells


def value_text(value: float | int | str | None) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def protocol_table(reports: Mapping[str, Report], protocol: str) -> Table:
    """The evaluations by name, in the columns of the paper; unequal protocols, judges or numbers are refused."""
    results = {name: report.results.get(protocol) for name, report in reports.items()}
    _require_comparable(protocol, reports, results)
    present = {name: r for name, r in results.items() if r is not None}
    tasks = list(dict.fromkeys(task for r in present.values() for task in r.tasks))
    columns = ("Model", *(TITLES.get(t, t.capitalize()) for t in tasks), TITLES[OVERALL] if tasks else protocol)
    rows = tuple(
        (name, *(f"{r.tasks[t].score:.{r.digits}f}" for t in tasks), number(r.value, r.interval, r.digits))
        for name, r in present.items()
    )
    first = next(iter(present.values()))
    return Table(columns, rows, (f"{title(protocol, first.found)}, {first.tier} tier", *first.notes))


def _require_comparable(protocol: str, reports: Mapping[str, Report], results: Mapping[str, Result | None]) -> None:
    lacking = [name for name, r in results.items() if r is None or r.status == "skipped"]
    if lacking:
        raise UsageError(f"{', '.join(lacking)}: no score of '{protocol}'.", "One table holds one protocol.")
    facts: dict[str, Callable[[str], object]] = {
        "prompts": lambda name: reports[name].setting.prompts_sha256,
        "images": lambda name: results[name].found,  # type: ignore[union-attr]
        "judge": lambda name: str(results[name].identity),  # type: ignore[union-attr]
    }
    for what, fact in facts.items():
        if len({fact(name) for name in results}) > 1:
            told = "; ".join(f"{name}: {str(fact(name))[:60]}" for name in results)
            raise UsageError(f"These differ in {what} and share no table ({told}).", "Evaluate all in the same way.")


def summary_table(reports: Sequence[tuple[str, Report]]) -> Table:
    """The paper's Table 1 of evaluations that may have different prompts: a row a model and NFE."""
    chosen: dict[str, dict[str, Result]] = {}
    nfes: dict[str, str] = {}
    for name, report in reports:
        for result in report.results.values():
            if family(result.protocol) in SUMMARY and result.status != "skipped":
                chosen.setdefault(name, {})[family(result.protocol)] = result
                nfes[name] = "-" if report.nfe_counted is None else f"{report.nfe_counted:g}"
    notes = []
    for kind in SUMMARY:
        labels = {title(r[kind].protocol, r[kind].found) for r in chosen.values() if kind in r}
        if len(labels) > 1:
            raise UsageError(f"{', '.join(sorted(labels))} share no column.", "Evaluate all in the same way.")
        notes += [f"{TITLES[kind]}: {label}" for label in labels]
    rows = tuple(
        (name, nfes[name], *(number(r[k].value, r[k].interval, r[k].digits) if k in r else "-" for k in SUMMARY))
        for name, r in chosen.items()
    )
    return Table(("Methods", "NFEs", *(TITLES[k] for k in SUMMARY)), rows, tuple(notes))


def published_table(table: published.Table) -> Table:
    """Numbers of others, labelled so in each row."""
    head = ("Methods", "NFEs") if table.name == "table1" else ("Model",)
    rows = []
    for row in table.rows:
        nfe = "" if row.nfe is None else str(row.nfe)
        name = row.method + (f" ({nfe}-NFE)" if nfe and len(head) == 1 else "") + (" *" if row.doubt else "")
        cells = ("-" if c not in row.values else f"{row.values[c]:g}" for c in table.columns)
        rows.append((f"{name} [{table.label}]", *([nfe] if len(head) == 2 else []), *cells))
    doubts = [f"* {row.method}: {row.doubt}" for row in table.rows if row.doubt]
    notes = (f"{table.label}: {table.source}", table.protocol, *dict.fromkeys(doubts))
    return Table((*head, *(TITLES.get(c, c.capitalize()) for c in table.columns)), tuple(rows), notes)


def to_csv(table: Table) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows([table.columns, *table.rows])
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
    """`PROTOCOL.csv`, `.md` and `.tex` beside the report, of every protocol that has scored."""
    for result in report.results.values():
        if result.status != "skipped":
            table = protocol_table({name: report}, result.protocol)
            for suffix, form in FORMS.items():
                write_whole(folder / f"{result.protocol}.{suffix}", form(table))
