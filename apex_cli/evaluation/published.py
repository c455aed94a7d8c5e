"""Numbers of others: every one with its protocol and source, and a doubt where its cell looks wrong.

None was measured here. They never share a column with ours: a table prints them in a block of their own.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from pydantic import Field

from apex_cli.config import Section

FILE = Path(__file__).parent / "published.json"


class Row(Section):
    method: str
    nfe: int | None = None
    """Network evaluations an image, where the source says."""
    values: dict[str, float] = Field(default_factory=dict)
    """By column; what the source leaves out is not there."""
    rewritten: bool | None = None
    """Whether a language model rewrote the prompts, which can raise GenEval by 0.1; None where nobody says."""
    doubt: str = ""
    """Why this row should not be trusted as printed."""
    throughput: float | None = None
    """Images a second on one A100 in bf16, batch 10, as the source says."""
    latency: float | None = None
    """Seconds, batch 1."""
    params: str = ""
    """Billions; trained ones in brackets."""


class Table(Section):
    name: str
    """`table1`, or the family of the protocol: fid, geneval, dpg, wise."""
    source: str
    label: str
    """"paper" for the APEX paper, else "published"."""
    protocol: str
    """What is known of how it was measured."""
    columns: tuple[str, ...]
    rows: tuple[Row, ...]


@cache
def tables() -> tuple[Table, ...]:
    return tuple(Table(**table) for table in json.loads(FILE.read_text(encoding="utf-8")))


def of(name: str) -> list[Table]:
    """All tables of a family."""
    return [table for table in tables() if table.name == name]
