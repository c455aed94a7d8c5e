"""One archive that carries files to a machine without a network: packed where they are, imported where they are not.

    manifest.json                    {"files": [{"place", "size", "sha256"}]}, the first member
    weights/ASSET/NAME               published files
    stats/PROTOCOL/NAME.safetensors  reference sets
    named/SUITE.KEY/NAME...          files and folders that a user names with --set SUITE.KEY=PATH

The places are those in `$APEX_CACHE`. What an archive says of itself is not believed: a member is taken only if its
place is one of these (of weights: if the catalogue knows asset and name), it is a plain file of the listed size, and
its bytes have the listed hash and the publisher's, where that is known.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from apex_cli.data.store import cache_folder, draft, settle
from apex_cli.data.tars import Header
from apex_cli.errors import DataError
from apex_cli.evaluation.assets import WEIGHTS, Asset, file_sha256, people_size
from apex_cli.evaluation.reference import STATS, SUFFIX
from apex_cli.records import Progress

MANIFEST, MANIFEST_BYTES = "manifest.json", 2**20
NAMED = "named"
CHUNK = 2**20
REMEDY = "Pack it again with `apex eval prepare SUITE --pack FILE`."


def named(setting: str, path: Path) -> dict[str, Path]:
    """Place -> file of what a user names by `setting`; of a folder every file that is not hidden."""
    inside = [path] if path.is_file() else [file for file in sorted(path.rglob("*")) if file.is_file()]
    names = {file.relative_to(path.parent).as_posix(): file for file in inside}
    return {f"{NAMED}/{setting}/{name}": file for name, file in names.items() if "/." not in f"/{name}"}


def settings(places: Sequence[str]) -> dict[str, Path]:
    """Setting -> what it should name, of the files imported to `places`."""
    parts = [place.split("/") for place in places if place.startswith(f"{NAMED}/")]
    return {setting: cache_folder() / NAMED / setting / name for _, setting, name, *_ in parts}


def pack(files: Mapping[str, Path], path: Path) -> Iterator[Progress]:
    """Write the archive `path` of place -> file, whole or not at all."""
    rows = []
    for done, (place, file) in enumerate(files.items(), 1):
        rows.append({"place": place, "size": file.stat().st_size, "sha256": file_sha256(file)})
        yield Progress("hash", done, len(files))
    content = json.dumps({"files": rows}, indent=1).encode()
    if len(content) > MANIFEST_BYTES:
        told = f"{len(rows):,} files are too many for an archive: their list is above {people_size(MANIFEST_BYTES)}."
        raise DataError(told, "Pack suites one by one, and copy folders of so many files as they are.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = draft(path)
    with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT, dereference=True) as tar:
        tar.addfile(_plain(MANIFEST, len(content)), io.BytesIO(content))
        for done, row in enumerate(rows, 1):
            with files[row["place"]].open("rb") as source:
                tar.addfile(_plain(row["place"], row["size"]), source)
            yield Progress("pack", done, len(rows))
    settle(temporary, path)


def unpack(path: Path, catalogue: Mapping[str, Asset]) -> Iterator[Progress | list[str]]:
    """Bring every file of an archive into the cache; yields progress, and last the places. Raises `DataError`."""
    try:
        with tarfile.open(path, "r:", tarinfo=Header) as tar:
            rows = _manifest(tar)
            expected = {row["place"]: (row, _hashes(row, catalogue)) for row in rows}
            written: list[str] = []
            while (info := tar.next()) is not None:
                row, hashes = expected.pop(info.name, (None, set()))
                if row is None or not info.isreg() or info.size != row["size"]:
                    raise DataError(f"'{path}' has a member '{info.name}' that its manifest does not list so.", REMEDY)
                _take(tar.extractfile(info), cache_folder() / row["place"], hashes)
                written.append(row["place"])
                yield Progress("import", len(written), len(rows))
    except FileNotFoundError as error:
        raise DataError(f"There is no archive '{path}'.", "Give one that `apex eval prepare --pack` wrote.") from error
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"'{path}' cannot be imported: {error}.", REMEDY) from error
    if expected:
        raise DataError(f"'{path}' lacks {', '.join(expected)}.", REMEDY)
    yield written


def _manifest(tar: tarfile.TarFile) -> list[dict[str, Any]]:
    info = tar.next()
    if info is None or info.name != MANIFEST or not info.isreg() or info.size > MANIFEST_BYTES:
        raise DataError("This archive does not begin with a manifest.", REMEDY)
    source = tar.extractfile(info)
    assert source is not None
    try:
        return [{key: row[key] for key in ("place", "size", "sha256")} for row in json.load(source)["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("The manifest of this archive cannot be read.", REMEDY) from error


def _hashes(row: Mapping[str, Any], catalogue: Mapping[str, Asset]) -> set[str]:
    """All that its bytes must have. A place of no known kind, or one that leads elsewhere, is a `DataError`."""
    kind, owner, name = [*str(row["place"]).split("/", 2), "", ""][:3]
    known = catalogue[owner].files if kind == WEIGHTS and owner in catalogue else ()
    if file := next((file for file in known if name in (file.name, *file.also)), None):
        return {row["sha256"], file.sha256 or row["sha256"]}
    plain = all(part.isprintable() and part.strip(".") for part in (owner, *name.split("/")))
    if plain and (kind == NAMED or (kind == STATS and "/" not in name and name.endswith(SUFFIX))):
        return {row["sha256"]}
    raise DataError(f"No protocol needs '{row['place']}'.", "Import it with the apex that packed it.")


def _take(source: IO[bytes] | None, target: Path, hashes: set[str]) -> None:
    """Copy to `target`, which is there only if its bytes have all these hashes."""
    assert source is not None
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary, found = draft(target), hashlib.sha256()
    try:
        with temporary.open("wb") as file:
            while chunk := source.read(CHUNK):
                found.update(chunk)
                file.write(chunk)
        if hashes != {found.hexdigest()}:
            raise DataError(f"'{target.name}' of this archive is not the published file (SHA-256 differs).", REMEDY)
        settle(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _plain(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info
