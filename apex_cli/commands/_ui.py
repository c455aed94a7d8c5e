"""What all commands share: options of one spelling, results on stdout, progress on stderr.

rich respects NO_COLOR and writes no escape codes where there is no terminal. User text is never read as markup.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text; errors too.")]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Put a value over the recipe; may be repeated."),
]


@functools.cache
def stdout() -> Console:
    """For results. Wide where there is no terminal, so that a pipe gets whole lines."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, markup=False, highlight=False, emoji=False)


@functools.cache
def stderr() -> Console:
    """For progress, warnings and remarks."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False)


def say(text: str) -> None:
    """A remark on stderr."""
    stderr().print(text, soft_wrap=True)


def emit(data: Any) -> None:
    """The one JSON document of a `--json` run, on stdout."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None) -> None:
    """A table on stdout; numbers are aligned to the right."""
    from rich.table import Table
    from rich.text import Text

    rows = [list(row) for row in rows]
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        drawn.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(f"{value:.3f}" if isinstance(value, float) else str(value)) for value in row))
    stdout().print(drawn)


def size(count: float) -> str:
    """Bytes for people: `1.5 GiB`."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if count < 1024:
            break
        count, unit = count / 1024, larger
    return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
