"""A data set as WebDataset shards: written once, byte by byte the same, and found again without reading them.

    shard-00003.tar      00003000.png, 00003000.json, (00003000.safetensors), 00003001.png, ...
    shard-00003.json     rows and SHA-256 of that shard, written after it
    index.parquet        a row for each sample: key, shard, where its picture lies, prompt, provenance
    manifest.json        what made the set, counts and hashes; last, so it says that the set is whole

`webdataset` and `datasets.load_dataset("webdataset")` read the shards; ours reads a picture by its place in the tar.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from apex_cli.data.store import draft, file_hash, settle
from apex_cli.errors import DataError

MANIFEST, INDEX = "manifest.json", "index.parquet"
FORMAT = 1


def shard_name(number: int) -> str:
    return f"shard-{number:05d}"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is there entirely or not at all; several writers of the same content do no harm."""
    temporary = draft(path)
    temporary.write_bytes(content)
    settle(temporary, path)


def pack(folder: Path, number: int, staged: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Make shard `number` of the files in `staged`; `rows` in the order of the shard, each with `key` and `image`."""
    name, listed = shard_name(number), []
    temporary = draft(folder / f"{name}.tar")
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows:
            for file in sorted(staged.glob(f"{row['key']}.*")):
                content = file.read_bytes()
                entry = tarfile.TarInfo(file.name)  # without owner and time, so that equal content is an equal file
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
                if file.suffix == f".{row['image']}":
                    place = {"offset": tar.offset - _padded(len(content)), "size": len(content)}
                    listed.append(
                        {**row, "shard": f"{name}.tar", **place, "sha256": hashlib.sha256(content).hexdigest()}
                    )
    digest = file_hash(temporary)
    settle(temporary, folder / f"{name}.tar")
    facts = {"sha256": digest, "bytes": (folder / f"{name}.tar").stat().st_size, "rows": listed}
    write_whole(folder / f"{name}.json", json.dumps(facts, ensure_ascii=False).encode())


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def is_packed(folder: Path, number: int) -> bool:
    return (folder / f"{shard_name(number)}.json").is_file()


def finish(folder: Path, count: int, identity: Mapping[str, Any]) -> None:
    """Index and manifest of a set whose `count` shards are all there; whoever comes last does it, twice is harmless."""
    import pyarrow as pa
    from pyarrow import parquet

    shards = [json.loads((folder / f"{shard_name(i)}.json").read_text(encoding="utf-8")) for i in range(count)]
    rows = [row for shard in shards for row in shard["rows"]]
    sink = io.BytesIO()
    parquet.write_table(pa.Table.from_pylist(rows), sink)
    write_whole(folder / INDEX, sink.getvalue())
    listed = {
        f"{shard_name(i)}.tar": {"sha256": shard["sha256"], "bytes": shard["bytes"], "samples": len(shard["rows"])}
        for i, shard in enumerate(shards)
    }
    manifest = {"format": FORMAT, "samples": len(rows), **identity, "shards": listed}
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())


def read_manifest(folder: Path) -> dict[str, Any]:
    """Raises `DataError` where `folder` holds no finished set, or the manifest of one that leads out of it."""
    path = folder / MANIFEST
    if not path.is_file():
        raise DataError(f"'{folder}' holds no finished set of shards.", "Run the same `apex synth-data` to its end.")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        names = list(manifest["shards"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path}' is damaged.", "Copy it again from where the set was made.") from error
    if strange := [name for name in names if not re.fullmatch(r"[\w-]+\.tar", name)]:
        raise DataError(f"'{path}' lists '{strange[0]}', which is no name of a shard.", "Do not use this set.")
    return manifest


def open_index(folder: Path) -> Any:
    """The `ParquetFile` of a set; raises `DataError` where it cannot be read."""
    from pyarrow import ArrowException, parquet

    try:
        return parquet.ParquetFile(folder / INDEX)
    except (ArrowException, OSError) as error:
        raise DataError(f"'{folder / INDEX}' is missing or damaged.", "Copy it again, with its shards.") from error


def verify(folder: Path) -> Iterator[tuple[str, str]]:
    """(shard, what is wrong) for every shard that is missing or altered."""
    for name, facts in read_manifest(folder)["shards"].items():
        path = folder / name
        if not path.is_file():
            yield name, "is missing"
        elif file_hash(path) != facts["sha256"]:
            yield name, "is altered"
