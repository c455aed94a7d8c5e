"""A set that `apex synth-data` made, as training data: a row is a sample, read from its place in its shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field
from torch import Tensor

from apex_cli.data.flaws import Flaw, Refused
from apex_cli.data.pictures import flaw_of, squares
from apex_cli.data.places import Place
from apex_cli.data.screen import ScreenConfig
from apex_cli.data.shards import open_index, read_manifest


class ShardSetConfig(ScreenConfig):
    path: str = Field(min_length=1)
    """The folder with `manifest.json`; relative to where the command runs."""


PLACES = ["prompt", "key", "shard", "offset", "size", "sha256"]


class ShardSet:
    """`prompts(rows)` and `pixels(rows)` of a finished set."""

    Config = ShardSetConfig

    def __init__(self, config: ShardSetConfig, resolution: int):
        self.config, self._folder, self._side = config, Path(config.path).expanduser(), resolution
        self._known = read_manifest(self._folder)["shards"]
        self.fingerprint = hashlib.sha256(json.dumps(["shards-1", [self._known, resolution]]).encode()).hexdigest()
        index = open_index(self._folder).read(PLACES)
        self._prompts, self._places = index["prompt"], [index[name] for name in PLACES[1:]]

    def __len__(self) -> int:
        return len(self._prompts)

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [self._prompts[int(row)].as_py() or "" for row in rows]

    def name(self, row: int) -> str:
        key, shard, *_ = self._facts(row)
        return f"{shard}/{key}"

    def flaw(self, row: int) -> Flaw | None:
        """Why a row cannot be trained on, if so; decodes its picture."""
        if not self.prompts([row])[0].strip():
            return Flaw("caption-empty", "has an empty caption")
        try:
            return flaw_of(self._place(row))
        except Refused as error:
            return error.flaw

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1]."""
        return squares([(self.name(int(row)), self._place(int(row))) for row in rows], self._side)

    def _place(self, row: int) -> Place:
        """Where a picture lies; raises `Refused` where that is no shard of the set."""
        _, shard, offset, size, sha256 = self._facts(row)
        if shard not in self._known:
            raise Refused("member-outside", f"lies in '{shard}' by index.parquet, which is no shard of the set")
        return Place(self._folder / shard, offset, size, sha256)

    def _facts(self, row: int) -> list[Any]:
        return [column[row].as_py() for column in self._places]
