"""A set that `apex synth-data` made, as training data: a row is a sample, read from its place in its shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from apex_cli.config import Section
from apex_cli.data.pictures import squares
from apex_cli.data.shards import INDEX, read_manifest
from apex_cli.generation import generator


class ShardSetConfig(Section):
    path: str = Field(min_length=1)
    """The folder with `manifest.json`; relative to where the command runs."""


class ShardSet:
    """`prompts(rows)` and `pixels(rows)` of a finished set."""

    Config = ShardSetConfig

    def __init__(self, config: ShardSetConfig, resolution: int):
        from pyarrow import parquet

        self._folder, self._side = Path(config.path).expanduser(), resolution
        facts = [read_manifest(self._folder)["shards"], resolution]
        self.fingerprint = hashlib.sha256(json.dumps(["shards-1", facts]).encode()).hexdigest()
        columns = ("key", "prompt", "shard", "offset", "size", "seed", "index")
        index = parquet.read_table(self._folder / INDEX, columns=list(columns))
        self._keys, self._prompts, self._shards, self._offsets, self._sizes, self._seeds, self._indices = (
            index[name] for name in columns
        )

    def __len__(self) -> int:
        return len(self._prompts)

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [self._prompts[int(row)].as_py() for row in rows]

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1]."""
        return squares([self._picture(int(row)) for row in rows], self._side)

    def noises(self, rows: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The noise that each sample was drawn from, [B, *shape]: a function of its seed and index (`generation`)."""
        places = [(self._seeds[int(row)].as_py(), self._indices[int(row)].as_py()) for row in rows]
        return torch.stack([torch.randn(tuple(shape), generator=generator(*place)) for place in places])

    def _picture(self, row: int) -> tuple[str, bytes]:
        """Name and content of a picture file."""
        shard = self._shards[row].as_py()
        with (self._folder / shard).open("rb") as file:
            file.seek(self._offsets[row].as_py())
            return f"{shard}/{self._keys[row].as_py()}", file.read(self._sizes[row].as_py())
