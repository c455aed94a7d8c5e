"""A benchmark as rows: for the terminal, Markdown and CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from apex_cli.benching.cells import LOSSY
from apex_cli.benching.laps import STAGES

COLUMNS = ("case", "mode", "median [95 %]", "p90", "p95", "images/s", "x plain", "x diffusers", "floor", "x floor", "n")


def rows(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """A row a cell, in the order of `COLUMNS`."""
    return [
        (
            case(cell),
            mode(cell),
            "{} [{}, {}]".format(*(duration(cell["seconds"]["median"][k]) for k in ("value", "low", "high"))),
            duration(cell["seconds"]["p90"]),
            duration(cell["seconds"]["p95"]),
            f"{cell['images_per_second']:.3g}",
            interval(cell["over_plain"]),
            interval(cell["over_diffusers"]),
            duration(cell["floor"]),
            "-" if cell["over_floor"] is None else f"{cell['over_floor']:.2f}",
            str(cell["seconds"]["n"]),
        )
        for cell in cells
    ]


def stage_rows(cells: Sequence[Mapping[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(columns, rows): seconds of each stage; the transformer's a single evaluation; `encode` is not in the total."""
    names = (*STAGES, "encode")
    columns = (
        "case",
        "mode",
        *("transformer/NFE" if n == "transformer" else n for n in names),
        "sum/total",
        "overhead",
    )
    made = []
    for cell in cells:
        stages = {**cell["stages"], "transformer": cell["stages"]["transformer"] / cell["nfe"]}
        tail = (f"{cell['stages_over_total']:.1%}", f"{cell['overhead']['share']:.2%}")
        made.append((case(cell), mode(cell), *(duration(stages[name]) for name in names), *tail))
    return columns, made


def reference_rows(cells: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Published figures beside the cells they belong to."""
    found = {
        (case(cell), row["method"], duration(row["seconds"]), row["resolution"], row["verdict"], row["source"]): None
        for cell in cells
        for row in cell["references"]
    }
    return list(found)


def floor_rows(floors: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """What `--analytic` prints."""
    return [
        (
            case(row),
            row["variant"],
            *(duration(row["stages"][name]) for name in ("text", "transformer", "vae")),
            duration(row["seconds"]),
            f"{row['images_per_second']:.3g}",
        )
        for row in floors
    ]


FLOOR_COLUMNS = ("case", "variant", "text", "transformer", "vae", "floor", "images/s")


def case(cell: Mapping[str, Any]) -> str:
    return f"{cell['model']} {cell['resolution']} px, batch {cell['batch']}, {cell['nfe']} NFE"


def mode(cell: Mapping[str, Any]) -> str:
    """`fast`; `fp8, LOSSY: 41.2 dB` where pictures are not those of the exact way."""
    if cell["mode"] not in LOSSY:
        return cell["mode"]
    told = "unknown PSNR" if cell["psnr"] is None else f"{cell['psnr']:.1f} dB"
    return f"{cell['mode']}, LOSSY: {told}"


def duration(seconds: float | None) -> str:
    """`64.0 ms`; three digits. `-` for nothing."""
    if not seconds:
        return "-"
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{_three(seconds / scale)} {unit}"
    return f"{_three(seconds / 1e-6)} us"


def _three(value: float) -> str:
    """Three digits at least."""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def interval(found: Mapping[str, float] | None) -> str:
    return "-" if found is None else "{value:.3f} [{low:.3f}, {high:.3f}]".format(**found)


def markdown(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table of GitHub's Markdown."""
    drawn = [f"| {' | '.join(columns)} |", f"|{'--|' * len(columns)}"]
    return "\n".join([*drawn, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def write_csv(cells: Sequence[Mapping[str, Any]], path: Path) -> None:
    """One line a cell, plain numbers in seconds."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = [_flat(cell) for cell in cells]
        writer = csv.DictWriter(file, fieldnames=list(dict.fromkeys(name for line in lines for name in line)))
        writer.writeheader()
        writer.writerows(lines)


def _flat(cell: Mapping[str, Any]) -> dict[str, Any]:
    kept = ("model", "resolution", "batch", "nfe", "mode", "psnr", "tokens", "images_per_second", "floor", "over_floor")
    seconds = cell["seconds"]
    return {
        **{name: cell[name] for name in kept},
        "median": seconds["median"]["value"],
        "low": seconds["median"]["low"],
        "high": seconds["median"]["high"],
        **{name: seconds[name] for name in ("p5", "p90", "p95", "n")},
        **{name: cell[name] and cell[name]["value"] for name in ("over_plain", "over_diffusers")},
        "first_request": cell["first_request"],
        "joules_per_image": cell["joules_per_image"],
        **{f"stage {name}": value for name, value in cell["stages"].items()},
        **{f"memory {name}": value for name, value in cell["memory"].items()},
    }
