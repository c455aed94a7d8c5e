"""The live display of long work: phase, bar, ETA, and of training its terms and their gradient norms, on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

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


class Display:
    """Progress on stderr, one phase after another: a bar with the time left, or without a terminal lines that tell it:
    of a phase its begin, its end, and its tenths where they take longer than `PACE`. `name`: whose phases they are;
    `transient`: the bar goes when the work is done."""

    def __init__(self, name: str = "", transient: bool = False):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.name, self.live = name, stderr().is_terminal
        self.bar = Progress(
            TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            TextColumn("{task.fields[terms]}"),
            console=stderr(), transient=transient, disable=not self.live, auto_refresh=False,
        )  # fmt: skip
        self.task = self.bar.add_task("start", total=None, terms="")
        self.phase: str | None = None
        self.told, self.drawn, self.began = -1, 0.0, (0.0, 0)

    def __enter__(self) -> Display:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, event: Progress, lines: bool = True) -> None:
        """`lines`: tell it where there is no terminal."""
        now = monotonic()
        new = event.phase != self.phase
        if new:
            self.phase, self.told, self.began = event.phase, -1, (now, event.done)
            shown = f"{self.name} · {event.phase}" if self.name else event.phase
            self.bar.reset(self.task, total=event.total, completed=event.done, description=shown)
        if self.live:
            self.bar.update(self.task, completed=event.done, total=event.total)
            if new or now - self.drawn > REFRESH:
                self.bar.refresh()
                self.drawn = now
        elif lines:
            tenth = event.done * 10 // max(event.total, 1)
            edge = new or event.done == event.total
            if tenth != self.told and (edge or now - self.drawn > PACE):
                whose = f"{self.name} · " if self.name else ""
                say(f"{whose}{event.phase} {event.done}/{event.total}{self._left(event, now)}")
                self.told, self.drawn = tenth, now

    def _left(self, event: Progress, now: float) -> str:
        began, first = self.began
        if not first < event.done < event.total:
            return ""
        seconds = (now - began) / (event.done - first) * (event.total - event.done)
        return f", {timedelta(seconds=round(seconds))} left"


def drawn(events: Iterator[Any], name: str = "") -> Iterator[Any]:
    """Draw the `Progress` among `events` and pass on what else comes."""
    from apex_cli.records import Progress

    with Display(name, transient=True) as display:
        for event in events:
            if isinstance(event, Progress):
                display.update(event)
            else:
                yield event


def show(events: Iterator[Progress]) -> StepRecord | None:
    """Drive work that yields its progress and draw it; returns the last record of a training run, which has a line of
    its own where there is no terminal."""
    last = None
    with Display() as display:
        for event in events:
            display.update(event, lines=event.phase.startswith(TENTHS))
            if event.record is None:
                continue
            last = event.record
            for warning in last.warnings:
                say(f"Warning: {warning}")
            if display.live:
                display.bar.update(display.task, terms=terms(last))
            else:
                say(f"step {last.step}/{event.total} · {terms(last)}")
    return last
