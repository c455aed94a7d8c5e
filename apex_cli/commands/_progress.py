"""The live display of long work: phase, bar, ETA, and of training its terms and their gradient norms, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import TYPE_CHECKING

from apex_cli.commands._ui import say, stderr

if TYPE_CHECKING:
    from apex_cli.records import Progress, StepRecord

TENTHS = ("check", "encode", "measure", "draw")
"""How the phases begin that have no records to tell of."""

REFRESH = 0.5
"""Seconds between two drawings of the bar, which take some milliseconds and only happen between two events: no thread
computes beside what is measured."""
PACE = 1.0
"""Seconds between two tenths that are told within a phase: what is done sooner needs no line, and a line takes as long
as a stage of a small request."""


def terms(record: StepRecord) -> str:
    """`loss 0.41 · fake 0.30 (grad 1.2) · match 0.02` of one record."""
    shown = [f"loss {record.loss:.4f}"]
    for name, value in record.parts.items():
        norm = record.telemetry.get(f"gradient.{name}")
        shown.append(f"{name} {value:.4f}" + ("" if norm is None else f" (gradient {norm:.3g})"))
    return " · ".join([*shown, f"gradient {record.grad_norm:.3g}", f"{record.seconds:.2f} s/step"])


def show(events: Iterator[Progress]) -> StepRecord | None:
    """Drive work that yields its progress and draw it; returns the last record of a training run.

    Without a terminal: one line a record, and of a phase that has none its begin, its end, and its tenths where they
    take longer than `PACE`.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    live = stderr().is_terminal
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[terms]}"), console=stderr(), disable=not live, auto_refresh=False,
    )  # fmt: skip
    last = told = None
    drawn = 0.0
    with bar:
        task = bar.add_task("start", total=None, terms="")
        for event in events:
            waited = monotonic() - drawn
            if live:
                bar.update(task, description=event.phase, completed=event.done, total=event.total)
                if waited > REFRESH:
                    bar.refresh()
                    drawn = monotonic()
            elif event.phase.startswith(TENTHS):
                tenth = (event.phase, event.done * 10 // event.total)
                edge = told is None or told[0] != event.phase or event.done == event.total
                if tenth != told and (edge or waited > PACE):
                    say(f"{event.phase} {event.done}/{event.total}")
                    told, drawn = tenth, monotonic()
            if event.record is None:
                continue
            last = event.record
            if live:
                bar.update(task, terms=terms(last))
            for warning in last.warnings:
                say(f"Warning: {warning}")
            if not live:
                say(f"step {last.step}/{event.total} · {terms(last)}")
    return last
