"""Damaged and hostile input, made on the spot: pictures, tar members, sets."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apex_cli.data import shards


def noise(seed: int = 0, side: int = 96) -> Image.Image:
    """A picture that looks like no other seed's."""
    cells = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), np.uint8)
    return Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)


def encoded(form: str = "PNG", image: Image.Image | None = None, **save: Any) -> bytes:
    sink = io.BytesIO()
    (image or noise()).save(sink, form, **save)
    return sink.getvalue()


def grainy(form: str) -> bytes:
    grain = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    return encoded(form, Image.fromarray(grain))


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def zeroed(content: bytes) -> bytes:
    """As an interrupted download leaves a file whose space was reserved."""
    return half(content) + bytes(len(content) - len(content) // 2)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def huge_png() -> bytes:
    """A header of 60000 x 60000 pixels over a few bytes."""
    return encoded()[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)) + encoded()[33:]


def swollen_text() -> bytes:
    """A PNG with a comment of 64 MiB in a few kilobytes."""
    return encoded()[:33] + chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**26), 9)) + encoded()[33:]


def huge_webp() -> bytes:
    """A canvas of 16384 x 16383 pixels around two frames of 96."""
    content = bytearray(encoded("WEBP", save_all=True, append_images=[noise(1)]))
    content[24:30] = (16_383).to_bytes(3, "little") + (16_382).to_bytes(3, "little")
    return bytes(content)


def huge_gif() -> bytes:
    content = bytearray(encoded("GIF"))
    content[6:10] = struct.pack("<HH", 65_535, 65_535)
    return bytes(content)


# ---- tar shards ----------------------------------------------------------------------------------------------------

Member = tuple[str, bytes] | tuple[str, bytes, dict[str, Any]]


def sample(key: str, seed: int, **facts: Any) -> list[Member]:
    """A whole sample."""
    return [(f"{key}.png", encoded("PNG", noise(seed))), (f"{key}.json", json.dumps({"prompt": key} | facts).encode())]


def tar(*members: Member) -> bytes:
    """A tar of (name, content, attributes of the header)."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as file:
        for name, content, *more in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            for attribute, value in (more[0] if more else {}).items():
                setattr(info, attribute, value)
            file.addfile(info, io.BytesIO(content) if info.size else None)
    return sink.getvalue()


def special(name: str, kind: bytes, target: str = "") -> bytes:
    """A whole sample and a member that is no file."""
    return tar(*sample("good", 1), (name, b"", {"type": kind, "linkname": target}))


def claiming(**headers: str) -> bytes:
    """A member whose extended header claims something."""
    return tar(*sample("good", 1), ("bad.png", b"abc", {"pax_headers": headers}))


def sparse() -> bytes:
    name, size = "GNU.sparse.name", "GNU.sparse.size"
    fixed = {"GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.map": "0,3"}
    return claiming(**fixed, **{name: "bad.png", size: str(2**40)})


def swollen_header() -> bytes:
    """A header of names that claims four gigabytes."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**32
    content = tar(*sample("good", 1))
    return content[: content.index(b"good.json") + 1024] + info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)


def broken_header() -> bytes:
    content = bytearray(tar(*sample("good", 1), *sample("lost", 2)))
    start = content.index(b"lost.png")
    content[start : start + 512] = b"\xff" * 512
    return bytes(content)


def cut_behind(name: bytes) -> bytes:
    """A shard that was cut just before the member `name`."""
    content = tar(*sample("good", 1), *sample("lost", 2))
    return content[: content.index(name)]


def cut_inside(name: bytes) -> bytes:
    """A shard that was cut in the first bytes of the member `name`."""
    content = tar(*sample("good", 1), *sample("lost", 2))
    return content[: content.index(name) + 512 + 40]


class Trap:
    """Whoever unpickles it makes a folder."""

    def __init__(self, place: Path):
        self.place = place

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.place),)


def listed(folder: Path, content: bytes, change: Callable[[list[dict[str, Any]]], None] = lambda rows: None) -> None:
    """`content` as shard-00000.tar of a finished set; `change` edits the rows of its index."""
    import pyarrow as pa
    from pyarrow import parquet

    from apex_cli.data.tars import scan

    path = folder / "shard-00000.tar"
    path.write_bytes(content)
    rows = [
        {
            "key": key, "prompt": key, "shard": path.name, "offset": place.offset, "size": place.size,
            "sha256": hashlib.sha256(place.read()).hexdigest(),
        }
        for key, members in scan(path).samples.items()
        for place in [members["png"]]
    ]  # fmt: skip
    change(rows)
    parquet.write_table(pa.Table.from_pylist(rows), folder / shards.INDEX)
    manifest = {"format": 1, "samples": len(rows), "shards": {path.name: {}}}
    (folder / shards.MANIFEST).write_text(json.dumps(manifest))


def altered(folder: Path) -> None:
    listed(folder, tar(*sample("good", 1), *sample("bad", 2)))
    path = folder / "shard-00000.tar"
    picture = encoded("PNG", noise(2))
    path.write_bytes(path.read_bytes().replace(picture, picture[:-9] + b"altered!!"))


def with_rows(edit: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    """A set whose index says something else of its second sample."""
    members = (*sample("good", 1), *sample("bad", 2))
    return lambda folder: listed(folder, tar(*members), lambda rows: edit(rows[1]) and None)


def without_shard(folder: Path) -> None:
    listed(folder, tar(*sample("good", 1)))
    (folder / "shard-00000.tar").rename(folder / "shard-00001.tar")


def unlisted(folder: Path) -> None:
    listed(folder, tar(*sample("good", 1), *sample("bad", 2)), lambda rows: rows.pop() and None)


def lost(folder: Path) -> None:
    listed(folder, tar(*sample("good", 1)), lambda rows: rows.append(rows[0] | {"key": "bad"}))


def as_shard(content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / "shard-00000.tar").write_bytes(content) and None


def members(*more: Member) -> Callable[[Path], None]:
    """A shard with a whole sample and `more`."""
    return as_shard(tar(*sample("good", 1), *more))


# ---- folders -------------------------------------------------------------------------------------------------------


def as_picture(content: bytes, name: str = "bad.png") -> Callable[[Path], None]:
    """A folder with a whole sample and a picture of `content`."""
    return in_folder(lambda folder: (folder / name).write_bytes(content), name)


def in_folder(make: Callable[[Path], object], name: str = "bad.png") -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        for key, content in (("good.png", encoded("PNG", noise(1))), ("good.txt", b"good")):
            (folder / key).write_bytes(content)
        (folder / name).with_suffix(".txt").write_bytes(b"bad")
        make(folder)

    return fill


def captioned(content: bytes | None) -> Callable[[Path], None]:
    """A folder whose second picture has the caption `content`, or none."""

    def make(folder: Path) -> None:
        (folder / "bad.png").write_bytes(encoded("PNG", noise(2)))
        file = folder / "bad.txt"
        file.unlink() if content is None else file.write_bytes(content)

    return in_folder(make)


def metadata(*rows: Sequence[str]) -> Callable[[Path], None]:
    """A folder of good.png and bad.png with (file_name, text) in metadata.jsonl."""

    def make(folder: Path) -> None:
        (folder / "bad.png").write_bytes(encoded("PNG", noise(2)))
        lines = [json.dumps({"file_name": name, "text": text}) for name, text in rows]
        (folder / "metadata.jsonl").write_text("\n".join(lines))

    return in_folder(make)


def compressed() -> bytes:
    return gzip.compress(tar(*sample("good", 1)))
