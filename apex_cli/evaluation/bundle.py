"""One archive that carries assets to a machine without a network: packed where they are, imported where they are not.

    manifest.json              {"files": [{"asset", "name", "size", "sha256"}]}, the first member
    weights/ASSET/NAME         the files

What an archive says of itself is not believed: a member is taken only if the catalogue knows its asset and name, it is
a plain file of the listed size, and its bytes have the listed hash and the publisher's, where that is known.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from apex_cli.data.store import draft, settle
from apex_cli.data.tars import Header
from apex_cli.errors import DataError
from apex_cli.evaluation.assets import Asset, File, Found, file_sha256, weights_folder
from apex_cli.records import Progress

MANIFEST, MANIFEST_BYTES = "manifest.json", 2**20
CHUNK = 2**20
REMEDY = "Pack it again with `apex eval prepare SUITE --pack FILE`."


def pack(found: Sequence[Found], path: Path) -> Iterator[Progress]:
    """Write the archive `path` of all these assets, whole or not at all."""
    listed = [(one.asset.id, name, file) for one in found for name, file in one.paths.items()]
    rows = []
    for done, (id, name, file) in enumerate(listed, 1):
        rows.append({"asset": id, "name": name, "size": file.stat().st_size, "sha256": file_sha256(file)})
        yield Progress("hash", done, len(listed))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = draft(path)
    with tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT, dereference=True) as tar:
        content = json.dumps({"files": rows}, indent=1).encode()
        tar.addfile(_plain(MANIFEST, len(content)), io.BytesIO(content))
        for done, (row, (_, _, file)) in enumerate(zip(rows, listed, strict=True), 1):
            with file.open("rb") as source:
                tar.addfile(_plain(_member(row), row["size"]), source)
            yield Progress("pack", done, len(rows))
    settle(temporary, path)


def unpack(path: Path, catalogue: Mapping[str, Asset]) -> Iterator[Progress | list[Path]]:
    """Bring every file of an archive into the cache; yields progress, and last the paths. Raises `DataError`."""
    try:
        with tarfile.open(path, "r:", tarinfo=Header) as tar:
            rows = _manifest(tar)
            expected = {_member(row): (row, _known(row, catalogue)) for row in rows}
            written: list[Path] = []
            while (info := tar.next()) is not None:
                row, file = expected.pop(info.name, (None, None))
                if row is None or file is None or not info.isreg() or info.size != row["size"]:
                    raise DataError(f"'{path}' has a member '{info.name}' that its manifest does not list so.", REMEDY)
                target = weights_folder() / row["asset"] / row["name"]
                _take(tar.extractfile(info), target, {row["sha256"], file.sha256 or row["sha256"]})
                written.append(target)
                yield Progress("import", len(written), len(rows))
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
        return [{key: row[key] for key in ("asset", "name", "size", "sha256")} for row in json.load(source)["files"]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("The manifest of this archive cannot be read.", REMEDY) from error


def _known(row: Mapping[str, Any], catalogue: Mapping[str, Asset]) -> File:
    """The file of the catalogue that a row names; its names are plain, so that none leads out of the cache."""
    asset = catalogue.get(row["asset"])
    file = next((file for file in asset.files if file.name == row["name"]), None) if asset else None
    if file is None:
        raise DataError(f"No protocol needs '{row['asset']}/{row['name']}'.", "Import it with the apex that packed it.")
    return file


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


def _member(row: Mapping[str, Any]) -> str:
    return f"weights/{row['asset']}/{row['name']}"


def _plain(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info
