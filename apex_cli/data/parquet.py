"""Parquet files with the bytes of a picture and its caption in each row, read where they lie.

Files are mapped, and a column is gone through a few rows at a time: memory is that of some rows, or of one row group
where its pictures stand in a dictionary. Rows that rise are read in one pass; going back begins the row group anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet
from pydantic import Field

from apex_cli.data.flaws import Flaw
from apex_cli.data.members import worded
from apex_cli.data.picture_data import CAPTIONS, IMAGES, PictureConfig, PictureData, column, files
from apex_cli.data.pictures import Named
from apex_cli.errors import DataError

BATCH = 16
"""Rows of a column in memory."""


class ParquetConfig(PictureConfig):
    path: str = Field(min_length=1)
    """A file, a folder with *.parquet at any depth, or a pattern such as data/train-*.parquet."""
    image_column: str | None = None
    """Bytes, or `{bytes, path}` as `datasets` writes them; None takes image, jpg, jpeg, png or webp."""
    caption_column: str | None = None
    """None takes text, prompt, caption or txt."""


class ParquetData(PictureData):
    """`prompts(rows)` and `pixels(rows)`; row i is the i-th of the files by name."""

    Config = ParquetConfig

    def __init__(self, config: ParquetConfig, resolution: int):
        super().__init__(config, resolution)
        self._files = files(config.path, ".parquet")
        self._groups: list[tuple[int, int]] = []
        """(file, number of the row group in it)"""
        counts: list[int] = []
        self._firsts: list[int] = []
        """First row of every file."""
        for number, file in enumerate(self._files):
            facts = _opened(file).metadata
            self._firsts.append(sum(counts))
            self._groups += [(number, group) for group in range(facts.num_row_groups)]
            counts += [facts.row_group(group).num_rows for group in range(facts.num_row_groups)]
        self._starts = np.cumsum([0, *counts])
        """First row of every row group, and the number of rows."""
        if not len(self):
            raise DataError(f"'{config.path}' has no row.", "Set data.path to files with pictures.")
        self._columns = [_columns(file, config) for file in self._files]
        self._passes: dict[bool, _Pass] = {}

    def __len__(self) -> int:
        return int(self._starts[-1])

    def captions(self, rows: Sequence[int]) -> list[str | Flaw]:
        found = self._values(rows, image=False)
        return [worded(found[row]) for row in rows]

    def pictures(self, rows: Sequence[int]) -> list[Named]:
        found = self._values(rows, image=True)
        return [(self.name(row), _content(found[row])) for row in rows]

    def _values(self, rows: Sequence[int], image: bool) -> dict[int, Any]:
        """Values of one of the two columns, the rows rising."""
        return {int(row): self._pass(int(row), image)[int(row)] for row in sorted(set(rows))}

    def _pass(self, row: int, image: bool) -> _Pass:
        """One that can still come to `row`."""
        group = self._group(row)
        going = self._passes.get(image)
        if going is None or going.group != group or row < going.first:
            number, inside = self._groups[group]
            name = self._columns[number][0 if image else 1]
            going = _Pass(group, self._files[number], inside, name, int(self._starts[group]))
            self._passes[image] = going
        return going

    def name(self, row: int) -> str:
        number, _ = self._groups[self._group(row)]
        return f"{self._files[number]}, row {row - self._firsts[number]}"

    def _group(self, row: int) -> int:
        return int(np.searchsorted(self._starts, row, side="right")) - 1


class _Pass:
    """Goes once through a column of a row group; `first`: the row of the first value in memory."""

    def __init__(self, group: int, file: Path, inside: int, name: str, first: int):
        self.group, self.file, self.first = group, file, first
        self.batches = _opened(file).iter_batches(BATCH, row_groups=[inside], columns=[name], use_threads=False)
        self.values: Any = ()

    def __getitem__(self, row: int) -> Any:
        while row >= self.first + len(self.values):
            self.first += len(self.values)
            try:
                self.values = next(self.batches).column(0)
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"'{self.file}' could not be read: {error}.", "Copy or download it again.") from error
        return self.values[row - self.first].as_py()


def _opened(file: Path) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(file, memory_map=True)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"'{file}' could not be read: {error}.", "Copy or download it again.") from error


def _columns(file: Path, config: ParquetConfig) -> tuple[str, str]:
    """The columns to read: picture, caption."""
    schema = _opened(file).schema_arrow
    image = column(schema.names, config.image_column, IMAGES, "image_column", str(file))
    caption = column(schema.names, config.caption_column, CAPTIONS, "caption_column", str(file))
    kind = schema.field(image).type
    if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
        return f"{image}.bytes", caption
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise DataError(f"Column '{image}' of '{file}' holds {kind}, no bytes.", "Name another: data.image_column.")
    return image, caption


def _content(value: Any) -> bytes:
    """The bytes of a picture; none where there are none, which its decoder tells."""
    return (value["bytes"] if isinstance(value, dict) else value) or b""
