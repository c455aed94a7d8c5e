"""A data set as WebDataset shards: written once, byte by byte the same, and found again without reading them.

    shard-00003.tar      00003000.json, 00003000.png, (00003000.safetensors), 00003001.json, ...
    shard-00003.json     rows and SHA-256 of that shard, written after it
    index.parquet        a row for each sample: key, shard, where its picture and extras lie, prompt, provenance
    manifest.json        what made the set, counts and hashes; last, so it says that the set is whole

`webdataset` and `datasets.load_dataset("webdataset")` read the shards; ours reads a picture by its place in the tar.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
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


def stage(path: Path, entries: Iterable[tuple[str, bytes]]) -> None:
    """Write some samples of a shard, (KEY.SUFFIX, content) of every file, as one file that is whole or absent."""
    temporary = draft(path)
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in entries:
            _add(tar, name, content)
    settle(temporary, path)


def pack(folder: Path, number: int, staged: Sequence[Path]) -> None:
    """Make shard `number` of all samples in the `staged` files, in the order of their keys.

    The json of a sample is its row, and names the suffix of its picture as `image`.
    """
    name, listed = shard_name(number), []
    temporary = draft(folder / f"{name}.tar")
    with tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar:
        for key, files in _samples(staged):
            places = {suffix: _add(tar, f"{key}.{suffix}", content) for suffix, content in files.items()}
            row = json.loads(files["json"])
            listed.append({**row, "shard": f"{name}.tar", **_places(row["image"], files, places)})
    digest = file_hash(temporary)
    settle(temporary, folder / f"{name}.tar")
    facts = {"sha256": digest, "bytes": (folder / f"{name}.tar").stat().st_size, "rows": listed}
    write_whole(folder / f"{name}.json", json.dumps(facts, ensure_ascii=False).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append a file; returns where its content begins."""
    entry = tarfile.TarInfo(name)  # without owner and time, so that equal content is an equal file
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))
    return tar.offset - -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _samples(staged: Sequence[Path]) -> Iterator[tuple[str, dict[str, bytes]]]:
    """(key, content by suffix) of every sample, by key; one is in memory at a time."""
    found: list[tuple[str, Path, int, int]] = []
    for path in staged:
        with tarfile.open(path) as tar:
            found += [(entry.name, path, entry.offset_data, entry.size) for entry in tar]
    for key, files in groupby(sorted(found), key=lambda file: file[0].partition(".")[0]):
        yield key, {name.partition(".")[2]: _read(path, offset, size) for name, path, offset, size in files}


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _places(image: str, files: Mapping[str, bytes], offsets: Mapping[str, int]) -> dict[str, Any]:
    """Where the picture of a sample lies in its shard, and what else is stored of it."""
    picture = files[image]
    found = {"offset": offsets[image], "size": len(picture), "sha256": hashlib.sha256(picture).hexdigest()}
    if "safetensors" in files:
        extras = files["safetensors"]
        found |= {"extras_offset": offsets["safetensors"], "extras_size": len(extras)}
        found |= {"extras_sha256": hashlib.sha256(extras).hexdigest()}
    return found


def is_packed(folder: Path, number: int) -> bool:
    return (folder / f"{shard_name(number)}.json").is_file()


def finish(folder: Path, count: int, identity: Mapping[str, Any]) -> None:
    """Index and manifest of a set whose `count` shards are all there; whoever comes last does it, twice is harmless."""
    import pyarrow as pa
    from pyarrow import parquet

    sink, writer = io.BytesIO(), None
    listed: dict[str, Any] = {}
    for name in map(shard_name, range(count)):  # the rows of one shard are in memory at a time
        shard = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        rows = pa.Table.from_pylist(shard["rows"], writer and writer.schema)
        writer = writer or parquet.ParquetWriter(sink, rows.schema)
        writer.write_table(rows)
        listed[f"{name}.tar"] = {"sha256": shard["sha256"], "bytes": shard["bytes"], "samples": len(rows)}
    if writer:
        writer.close()
    write_whole(folder / INDEX, sink.getvalue())
    samples = sum(shard["samples"] for shard in listed.values())
    manifest = {"format": FORMAT, "samples": samples, **identity, "shards": listed}
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
