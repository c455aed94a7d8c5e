"""`apex eval prepare`, `import` and `reference`: the files that suites need, on machines with and without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_cli.commands._eval_settings import SetOfSuite, settings
from apex_cli.commands._progress import drawn
from apex_cli.commands._ui import Json, emit, say, table

if TYPE_CHECKING:
    from apex_cli.evaluation.assets import Asset

PACK = "Also write what is here into one archive, for `apex eval import` on a machine without a network."


def prepare(
    suites: Annotated[list[str], typer.Argument(help="Suites such as fid, clip@sana or kid, or `all`.")],
    pack: Annotated[Path | None, typer.Option(metavar="FILE", help=PACK)] = None,
    overrides: SetOfSuite = None,
    as_json: Json = False,
) -> None:
    """List the files that suites need: size, SHA-256, licence, where each lies, and how to get what is missing.

    Fetches nothing. Exits with 4 if --pack finds nothing to pack.
    """
    from apex_cli.errors import SetupError
    from apex_cli.evaluation import bundle

    changes = settings(overrides or [])
    needs = _needs(suites, changes)
    assets = [need for need in needs.values() if hasattr(need, "locate")]
    here = _places(needs, changes) if pack else {}
    if pack is not None:
        if not here:
            raise SetupError("There is nothing to pack: no file is here.", "Run the commands that `prepare` lists.")
        list(drawn(bundle.pack(here, pack)))
    files, others = [row for asset in assets for row in _rows(asset)], _others(needs)
    if as_json:
        emit({"files": files, "others": others, "archive": _text(pack), "packed": list(here)})
        return
    columns = ("FILE", "SIZE", "SHA-256", "LICENCE", "WHERE")
    keys = ("name", "shown", "digest", "licence", "place")
    told = [{**row, "digest": row["sha256"][:16], "place": row["found"] or "missing"} for row in (*files, *others)]
    table(columns, [[row[key] or "-" for key in keys] for row in told])
    for asset in assets:
        if asset.locate() is None:
            typer.echo(f"{asset.id}: {asset.command}\n  from {asset.source}")
    for other in others:
        if other["found"] is None:
            typer.echo(f"{other['name']}: {other['remedy']}")
    if pack is not None:
        typer.echo(f"{pack}: {len(here)} files; on the other machine: apex eval import {pack.name}")


def _needs(suites: list[str], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What suites need, by name, each once; `fid` means every `fid@...`."""
    from apex_cli.build import evaluation
    from apex_cli.evaluation.catalog import ASSETS
    from apex_cli.evaluation.guests import Guest
    from apex_cli.registry import names

    known = names("protocol")
    found = {suite: ASSETS[suite] for suite in suites if suite in ASSETS and suite not in known}
    meant: list[str] = []
    for suite in suites:
        if suite not in found:  # an unknown one is told with its nearest match
            meant += known if suite == "all" else [n for n in known if n.partition("@")[0] == suite] or [suite]
    for protocol in evaluation.protocols(meant, changes).values():
        usual = [protocol.usual] if isinstance(protocol, Guest) and protocol.usual else []
        for need in (*protocol.needs, *usual):
            found.setdefault(getattr(need, "id", f"{protocol.name}: {need.name}"), need)
    return found


def _places(needs: dict[str, Any], changes: dict[str, dict[str, Any]]) -> dict[str, Path]:
    """Place in a cache -> file: what is here of what suites need, and what else the user names."""
    from apex_cli.build import evaluation
    from apex_cli.evaluation.bundle import named

    files: dict[str, Path] = {}
    for need in needs.values():
        files |= getattr(need, "places", {})
    placed = {getattr(need, "chosen", None) for need in needs.values()}
    for setting, path in evaluation.paths(changes).items():
        if path not in placed and path.exists():
            files |= named(setting, path)
    return files


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
    """What is needed and is no published file: reference sets, packages and what users name."""
    return [_other(name, need) for name, need in needs.items() if not hasattr(need, "locate")]


def _other(name: str, need: Any) -> dict[str, Any]:
    from apex_cli.evaluation.assets import file_sha256, people_size

    path = need.find()
    file = path if path is not None and path.is_file() else None
    size = file.stat().st_size if file else need.size
    return {
        "name": name,
        "size": size,
        "shown": f"{'' if file else 'about '}{people_size(size)}" if size else "",
        "sha256": file_sha256(file) if file else "",
        "licence": getattr(need, "licence", ""),
        "found": _text(path),
        "remedy": need.remedy,
    }


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def bring_in(
    archive: Annotated[Path, typer.Argument(help="What `apex eval prepare SUITE --pack` wrote.")], as_json: Json = False
) -> None:
    """Unpack an archive of files into the cache; exits with 3 where a file has not its hash."""
    from apex_cli.data.store import cache_folder
    from apex_cli.evaluation import bundle
    from apex_cli.evaluation.catalog import ASSETS

    (places,) = drawn(bundle.unpack(archive, ASSETS))
    named = bundle.settings(places)
    if as_json:
        paths = [str(cache_folder() / place) for place in places]
        emit({"files": paths, "settings": {setting: str(path) for setting, path in named.items()}})
        return
    for place in places:
        if not place.startswith(f"{bundle.NAMED}/"):
            typer.echo(str(cache_folder() / place))
    for setting, path in named.items():
        typer.echo(f"--set {setting}={path}")


def make_reference(
    folder: Annotated[Path, typer.Argument(help="Pictures of the reference set, at any depth.")],
    suite: Annotated[str, typer.Option("--for", help="The suite it is for, e.g. fid@sana-512.")],
    name: Annotated[
        str | None,
        typer.Option(help="What it is called; `mjhq-30k` is what FID looks for unasked.  [default: from FOLDER]"),
    ] = None,
    overrides: SetOfSuite = None,
    as_json: Json = False,
) -> None:
    """Compute the statistics that pictures are compared with, once. The same command again continues."""
    from apex_cli.build import evaluation
    from apex_cli.errors import UsageError
    from apex_cli.evaluation.distances import DistanceConfig
    from apex_cli.evaluation.reference_sets import collect
    from apex_cli.registry import resolve

    if not issubclass(resolve("protocol", suite).Config, DistanceConfig):
        raise UsageError(f"'{suite}' compares no sets of pictures.", "Choose fid@..., kid, cmmd or fd-dinov2.")
    changes = settings(overrides or [])
    changes.setdefault(suite, {})["reference"] = folder
    (made,) = drawn(collect(evaluation.protocols([suite], changes)[suite], folder, name))
    if as_json:
        emit({"file": str(made.path), "images": made.n, "left_out": [f.model_dump() for f in made.flaws]})
        return
    for flaw in made.flaws:
        say(f"left out: {flaw.name} ({flaw.kind}) {flaw.detail}")
    typer.echo(f"{made.path}: {made.n} images")
