"""Ten small pictures of several shapes, and the same ones packed as other people publish theirs."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from PIL import Image
from pyarrow import parquet

SIDE = 64
SHAPES = ((64, 64), (128, 64), (64, 128), (90, 90), (140, 60))
"""(width, height)"""


def picture(number: int, kind: str = "PNG") -> bytes:
    """A picture of one colour, told by its number."""
    sink = io.BytesIO()
    Image.new("RGB", SHAPES[number % len(SHAPES)], (number * 20 % 256, 100, 50)).save(sink, kind)
    return sink.getvalue()


def numbers(pixels: torch.Tensor) -> list[int]:
    """Which pictures these are; JPEG is off by one or two."""
    return [round(float((one[0].mean() + 1) * 127.5) / 20) for one in pixels]


def folder(path: Path, which: Iterable[int]) -> Path:
    path.mkdir(parents=True)
    for number in which:
        (path / f"{number:02d}.png").write_bytes(picture(number))
        (path / f"{number:02d}.txt").write_text(f"caption {number}")
    return path


def table(which: Iterable[int], struct: bool = True) -> pa.Table:
    """As `datasets` writes pictures, or plain bytes."""
    images: list[Any] = [picture(number) for number in which]
    rows = [{"bytes": image, "path": None} for image in images] if struct else images
    return pa.table({"image": rows, "text": [f"caption {number}" for number in which]})


def write_parquet(path: Path, which: Sequence[int], group: int = 3, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table(which, **options), path, row_group_size=group)
    return path


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def blip3o_60k(path: Path, which: Sequence[int]) -> Path:
    """Tars by theme, KEY.jpg beside KEY.txt."""
    for part, name in enumerate(("dalle3", "geneval_train")):
        own = which[part::2]
        files = [
            file
            for n in own
            for file in ((f"{n:06d}.jpg", picture(n, "JPEG")), (f"{n:06d}.txt", f"caption {n}\n".encode()))
        ]
        write_tar(path / f"{name}.tar", files)
    return path


def sharegpt_4o_image(path: Path, which: Sequence[int]) -> Path:
    """Pictures in numbered tars, captions in one JSON list, which also lists tars that were not downloaded."""
    for part in range(2):
        write_tar(path / f"text_to_image_part_{part}.tar", [(f"image/{n}.png", picture(n)) for n in which[part::2]])
    rows = [
        {"input_prompt": f"caption {n}", "output_image": f"image/{n}.png", "output_image_resolution": [64, 64]}
        for n in (*which, 998, 999)
    ]
    (path / "text_to_image.json").write_text(json.dumps(rows))
    write_tar(path / "text_and_image_to_image_part_0.tar", [("image/7_input.png", picture(7))])
    return path
