"""`apex eval prepare`, `import` and `reference`: the files that suites need, on machines with and without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_cli.commands._progress import drawn
from apex_cli.commands._ui import Json, emit, say, table

if TYPE_CHECKING:
    from apex_cli.evaluation.assets import Asset

PACK = "Also write what is here into one archive, for `apex eval import` on a machine without a network."


def prepare(
    suites: Annotated[list[str], typer.Argument(help="Suites such as fid, clip@sana or kid, or `all`.")],
    pack: Annotated[Path | None, typer.Option(metavar="FILE", help=PACK)] = None,
    as_json: Json = False,
) -> None:
    """List the files that suites need: size, SHA-256, licence, where each lies, and how to get what is missing.

    Fetches nothing. Exits with 4 if --pack finds nothing to pack.
    """
    from apex_cli.errors import SetupError
    from apex_cli.evaluation import bundle

    needs = _needs(suites)
    assets = [need for need in needs.values() if hasattr(need, "locate")]
    here = [found for asset in assets if (found := asset.locate())]
    if pack is not None:
        if not here:
            raise SetupError("There is nothing to pack: no file is here.", "Run the commands that `prepare` lists.")
        list(drawn(bundle.pack(here, pack)))
    if as_json:
        emit(
            {
                "files": [row for asset in assets for row in _rows(asset)],
                "others": _others(needs),
                "archive": _text(pack),
            }
        )
        return
    columns = ("FILE", "SIZE", "SHA-256", "LICENCE", "WHERE")
    rows = [row for asset in assets for row in _rows(asset)]
    table(
        columns, [[r["name"], r["shown"], r["sha256"][:16] or "-", r["licence"], r["found"] or "missing"] for r in rows]
    )
    for asset in assets:
        if asset not in [found.asset for found in here]:
            typer.echo(f"{asset.id}: {asset.command}\n  from {asset.source}")
    for other in _others(needs):
        typer.echo(f"{other['name']}: {other['found'] or other['remedy']}")
    if pack is not None:
        typer.echo(f"{pack}: {len(here)} of {len(assets)}; on the other machine: apex eval import {pack.name}")


def _needs(suites: list[str]) -> dict[str, Any]:
    """What suites need, by name, each once; `fid` means every `fid@...`."""
    from apex_cli.evaluation.catalog import ASSETS
    from apex_cli.registry import names, resolve

    known = names("protocol")
    found: dict[str, Any] = {}
    for suite in suites:
        if suite in ASSETS and suite not in known:
            found[suite] = ASSETS[suite]
            continue
        meant = known if suite == "all" else [n for n in known if n == suite or n.partition("@")[0] == suite]
        for name in meant or [suite]:  # an unknown one is told with its nearest match
            protocol = resolve("protocol", name)
            for need in protocol(protocol.Config()).needs:
                found.setdefault(getattr(need, "id", f"{name}: {need.name}"), need)
    return found


def _rows(asset: Asset) -> list[dict[str, Any]]:
    """One row a file."""
    from apex_cli.evaluation.assets import people_size

    found = asset.locate()
    return [
        {
            "asset": asset.id,
            "name": file.name,
            "size": file.size,
            "shown": people_size(file.size) if file.sha256 else f"about {people_size(file.size)}",
            "sha256": file.sha256 or "",
            "licence": asset.licence,
            "source": asset.source,
            "command": asset.command,
            "found": _text(found.paths[file.name] if found else None),
        }
        for file in asset.files
    ]


def _others(needs: dict[str, Any]) -> list[dict[str, Any]]:
    """What is needed and is no published file: reference sets and the like."""
    return [
        {"name": name, "found": _text(need.find()), "remedy": need.remedy}
        for name, need in needs.items()
        if not hasattr(need, "locate")
    ]


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def bring_in(
    archive: Annotated[Path, typer.Argument(help="What `apex eval prepare SUITE --pack` wrote.")], as_json: Json = False
) -> None:
    """Unpack an archive of weights into the cache; exits with 3 where a file has not its hash."""
    from apex_cli.evaluation import bundle

    known = {need.id: need for need in _needs(["all"]).values() if hasattr(need, "locate")}
    (written,) = drawn(bundle.unpack(archive, known))
    if as_json:
        emit({"files": [str(path) for path in written]})
        return
    for path in written:
        typer.echo(str(path))


def make_reference(
    folder: Annotated[Path, typer.Argument(help="Pictures of the reference set, at any depth.")],
    suite: Annotated[str, typer.Option("--for", help="The suite it is for, e.g. fid@sana-512.")],
    name: Annotated[
        str | None,
        typer.Option(help="What it is called; `mjhq-30k` is what FID looks for unasked.  [default: from FOLDER]"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compute the statistics that pictures are compared with, once. The same command again continues."""
    from apex_cli.errors import UsageError
    from apex_cli.evaluation.distances import SetDistance
    from apex_cli.evaluation.reference_sets import collect
    from apex_cli.registry import resolve

    protocol = resolve("protocol", suite)
    asked = protocol(protocol.Config())
    if not isinstance(asked, SetDistance):
        raise UsageError(f"'{suite}' compares no sets of pictures.", "Choose fid@..., kid, cmmd or fd-dinov2.")
    (made,) = drawn(collect(asked, folder, name))
    if as_json:
        emit({"file": str(made.path), "images": made.n, "left_out": [f.model_dump() for f in made.flaws]})
        return
    for flaw in made.flaws:
        say(f"left out: {flaw.name} ({flaw.kind}) {flaw.detail}")
    typer.echo(f"{made.path}: {made.n} images")
