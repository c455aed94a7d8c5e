"""A set that `apex synth-data` made, as training data: a row is a sample, read from its place in its shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from pydantic import Field

from apex_cli.data.picture_data import PictureConfig, PictureData, Source
from apex_cli.data.shards import INDEX, read_manifest


class ShardSetConfig(PictureConfig):
    path: str = Field(min_length=1)
    """The folder with `manifest.json`; relative to where the command runs."""


class ShardSet(PictureData):
    """`prompts(rows)` and `pixels(rows)` of a finished set."""

    Config = ShardSetConfig

    def __init__(self, config: ShardSetConfig, resolution: int):
        from pyarrow import parquet

        super().__init__(config, resolution)
        self._folder = Path(config.path).expanduser()
        self._listed = read_manifest(self._folder)["shards"]
        columns = ("key", "prompt", "shard", "offset", "size")
        index = parquet.read_table(self._folder / INDEX, columns=list(columns))
        self._keys, self._prompts, self._shards, self._offsets, self._sizes = (index[name] for name in columns)

    def __len__(self) -> int:
        return len(self._prompts)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over resolution, crop, and what the manifest says of every shard."""
        return hashlib.sha256(json.dumps(["shards-1", [self._listed, self.frame]]).encode()).hexdigest()

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [self._prompts[int(row)].as_py() for row in rows]

    def pictures(self, rows: Sequence[int]) -> list[Source]:
        return [self._picture(int(row)) for row in rows]

    def _picture(self, row: int) -> tuple[str, bytes]:
        """Name and content of a picture file."""
        shard = self._shards[row].as_py()
        with (self._folder / shard).open("rb") as file:
            file.seek(self._offsets[row].as_py())
            return f"{shard}/{self._keys[row].as_py()}", file.read(self._sizes[row].as_py())
