"""Which stream of samples a path is; tables and what a recipe names as the readers of training see them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apex_cli.data import shards
from apex_cli.data.checks.samples import FolderSource, Sample, ShardSource, Source
from apex_cli.data.flaws import Flaw
from apex_cli.data.hugging_face import SAVED, DatasetsConfig, DatasetsData
from apex_cli.data.parquet import ParquetConfig, ParquetData
from apex_cli.data.pictures import Source as Picture
from apex_cli.errors import DataError, UsageError


def open_source(path: Path, column: str | None = None) -> Source:
    """The set at `path`; `column`: where a table keeps captions. Raises `DataError` where there is none."""
    if not path.exists():
        told = "Give a folder or file; `--recipe` alone checks what its [data] names, on the hub too."
        raise DataError(f"'{path}' does not exist.", told)
    asked: Any = {"path": str(path), "caption_column": column}
    if path.suffix == ".parquet" or _holds_tables(path):
        return ReaderSource("parquet", [ParquetData(ParquetConfig(**asked), resolution=1)])
    if path.is_file() or any((path / name).is_file() for name in SAVED):
        return ReaderSource("datasets", [DatasetsData(DatasetsConfig(**asked), resolution=1)])
    if not any(path.glob("*.tar")) and not (path / shards.MANIFEST).is_file():
        return FolderSource(path, column)
    if column:
        raise UsageError("--column is for tables of captions; shards keep them in their members.", "Leave it out.")
    return ShardSource(path)


def _holds_tables(path: Path) -> bool:
    """Whether a folder has Parquet files, and no tars which one of them may be the index of."""
    return any(path.rglob("*.parquet")) and not any(path.rglob("*.tar")) and not (path / shards.MANIFEST).is_file()


class ReaderSource:
    """What readers of training read, one behind the other."""

    def __init__(self, kind: str, readers: Sequence[Any]):
        """`readers`: `PictureData`, whose resolution and crop play no part here."""
        self.kind = kind
        self._rows = [(reader, range(len(reader))) for reader in readers]

    def __len__(self) -> int:
        return sum(len(rows) for _, rows in self._rows)

    def __iter__(self) -> Iterator[Sample]:
        for reader, rows in self._rows:
            yield from (_sample(reader, row) for row in rows)

    def again(self, number: int) -> Picture | Flaw:
        """The picture of the sample that came as `number`."""
        for reader, rows in self._rows:
            if number < len(rows):
                return reader.picture(number)
            number -= len(rows)
        raise IndexError(number)


def _sample(reader: Any, row: int) -> Sample:
    (caption,), picture = reader.captions([row]), reader.picture(row)
    flaws = dict.fromkeys(found for found in (picture, caption) if isinstance(found, Flaw))
    picture, caption = (None if isinstance(found, Flaw) else found for found in (picture, caption))
    return Sample(reader.name(row), picture, caption, tuple(flaws))
