"""DPG-Bench's propositions: what a long prompt says, one question each, and which hangs on which.

The CSV is TencentQQGYLab/ELLA's (commit 3c228f1): item_id, text, keywords, proposition_id, dependency, category_broad,
category_detailed, tuple, question_natural_language. Two ways to read it:

`official`  as its script does: the first row is lost, and rows of an item that are not together count as the last run
            of them. A child of the lost row raises there, so that its prompt is dropped.
`fixed`     every row, wherever it stands.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from apex_cli.errors import DataError

CATEGORIES = ("global", "entity", "attribute", "relation", "other")
"""In the order of the paper's Table 3."""
COLUMNS = ("item_id", "proposition_id", "dependency", "tuple", "question_natural_language")


@dataclass(frozen=True)
class Proposition:
    """`parents`: ids of the propositions it hangs on, without the 0 that means none."""

    id: int
    parents: tuple[int, ...]
    category: str
    """The text before the "(" of the tuple, e.g. `attribute - color`."""
    question: str

    @property
    def level1(self) -> str:
        """`attribute`."""
        return self.category.split("-")[0].strip()


Propositions = dict[str, dict[int, Proposition]]
"""Item -> id -> proposition, in the order of the file."""


def read(path: Path, official: bool) -> Propositions:
    items: Propositions = {}
    previous = ""
    for place, (item, proposition) in enumerate(_rows(path)):
        if official and place == 0:
            continue
        if official and item != previous:
            items[item] = {}
        items.setdefault(item, {})[proposition.id] = proposition
        previous = item
    return items


def _rows(path: Path) -> Iterator[tuple[str, Proposition]]:
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        if absent := [column for column in COLUMNS if column not in (rows.fieldnames or ())]:
            raise DataError(f"{path} has no column '{absent[0]}'.", "Take dpg_bench.csv of ELLA's repository.")
        for row in rows:
            try:
                yield row["item_id"], _proposition(row)
            except (ValueError, AttributeError) as error:
                told = f"{path}, line {rows.line_num}: no proposition ({error})."
                raise DataError(told, "Take dpg_bench.csv of ELLA's repository.") from error


def _proposition(row: dict[str, str]) -> Proposition:
    parents = tuple(int(part) for part in row["dependency"].split(","))
    category = row["tuple"].split("(")[0].strip()
    return Proposition(
        int(row["proposition_id"]), tuple(p for p in parents if p), category, row["question_natural_language"]
    )


def texts(folder: Path) -> dict[str, str]:
    """Prompt id -> prompt, from `prompts/ID.txt`, sorted by id."""
    return {path.stem: path.read_text(encoding="utf-8").strip() for path in sorted((folder / "prompts").glob("*.txt"))}
