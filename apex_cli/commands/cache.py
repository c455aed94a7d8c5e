"""`apex cache`: look at, check and clear what training has encoded and kept on disk."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_cli.commands._ui import Json, emit, say, size, table

if TYPE_CHECKING:
    from apex_cli.data.caches import Entry

app = typer.Typer(
    help="List, verify and clear the latents, prompt embeddings and screenings kept on disk.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
BYTES = (
    {"B": 1}
    | {f"{p}B": 1000**n for n, p in enumerate("KMGT", 1)}
    | {f"{p}iB": 1024**n for n, p in enumerate("KMGT", 1)}
)


def _amount(text: str, units: dict[str, int], example: str) -> float:
    """`text`, a number and one of `units`, in the smallest of them."""
    from apex_cli.errors import UsageError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)", text.strip())
    if match is None or match[2] not in units:
        raise UsageError(f"'{text}' is not an amount.", f"Write e.g. {example}; units: {', '.join(units)}.")
    return float(match[1]) * units[match[2]]


def _age(seconds: float) -> str:
    unit = next(unit for unit in reversed(SECONDS) if seconds >= SECONDS[unit] or unit == "s")
    return f"{seconds / SECONDS[unit]:.0f} {unit}"


def _facts(entry: Entry) -> dict[str, Any]:
    """What `--json` says of a store."""
    return {
        "kind": entry.kind,
        "key": entry.key,
        "folder": str(entry.folder),
        "rows": entry.rows,
        "size": entry.size,
        "age": round(entry.age),
        "complete": entry.complete,
        **{name: entry.about.get(name) for name in ("data", "model")},
    }


@app.command()
def ls(as_json: Json = False) -> None:
    """List what is kept: rows, size, the time since a run last used it, and what it was made of."""
    from apex_cli.data import caches

    found = caches.entries()
    if as_json:
        emit([_facts(entry) for entry in found])
        return
    rows = [
        (e.kind, e.key, e.rows, size(e.size), _age(e.age), e.about.get("data", ""), e.about.get("model", ""),
         "complete" if e.complete else "unfinished")
        for e in found
    ]  # fmt: skip
    table(("KIND", "KEY", "ROWS", "SIZE", "UNUSED", "DATA", "MODEL", "STATE"), rows)


@app.command()
def verify(as_json: Json = False) -> None:
    """Compare every file with the hash it was written with; exits with 3 if one is broken.

    The next run that needs a truncated or missing file makes it anew; an altered one must be deleted first.
    """
    from apex_cli.data import caches
    from apex_cli.errors import DataError

    found = [(entry, list(caches.broken(entry))) for entry in caches.entries()]
    failed = any(broken for _, broken in found)
    if as_json:
        told = [{"file": str(path), "reason": reason} for _, broken in found for path, reason in broken]
        emit({"ok": not failed, "stores": len(found), "broken": told})
    else:
        for entry, broken in found:
            for path, reason in broken:
                typer.echo(f"{path}: {reason}")
            if not broken:
                typer.echo(f"{entry.folder}: {'complete' if entry.complete else 'unfinished'} and unaltered")
    if failed:
        if not as_json:
            say("-> Delete the broken files; the next run makes them anew.")
        raise typer.Exit(DataError.exit_code)


@app.command()
def gc(
    older_than: Annotated[
        str | None, typer.Option(metavar="AGE", help="Remove what was unused for longer: 30d.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Keep the last used that fit into this, e.g. 10GB.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be removed.")] = False,
    as_json: Json = False,
) -> None:
    """Remove unfinished files of processes that are gone and, where an option says so, whole stores.

    What is removed is encoded again when a run needs it. A run that is already training keeps its data.
    """
    from apex_cli.data import caches

    age = None if older_than is None else _amount(older_than, SECONDS, "30d")
    limit = None if max_size is None else int(_amount(max_size, BYTES, "10GB"))
    gone = [(path, path.stat().st_size) for path in caches.leftovers()]
    gone += [(entry.folder, entry.size) for entry in caches.superfluous(age, limit)]
    if not dry_run:
        for path, _ in gone:
            caches.remove(path)
    _tell(gone, dry_run, as_json)


def _tell(gone: list[tuple[Path, int]], dry_run: bool, as_json: bool) -> None:
    freed = sum(count for _, count in gone)
    if as_json:
        removed = [{"path": str(path), "size": count} for path, count in gone]
        emit({"removed": removed, "freed": freed, "dry_run": dry_run})
        return
    for path, count in gone:
        typer.echo(f"{path}: {size(count)}")
    typer.echo(f"{'Would free' if dry_run else 'Freed'} {size(freed)}.")
