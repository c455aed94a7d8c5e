"""A set that `apex synth-data` made, as training data: a row is a sample, read from its place in its shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from apex_cli.data.flaws import Flaw, Refused
from apex_cli.data.pictures import flaw_of, squares
from apex_cli.data.places import Place
from apex_cli.data.screen import ScreenConfig
from apex_cli.data.shards import open_index, read_manifest
from apex_cli.generation import generator


class ShardSetConfig(ScreenConfig):
    path: str = Field(min_length=1)
    """The folder with `manifest.json`; relative to where the command runs."""


PICTURE = ("offset", "size", "sha256")
EXTRAS = ("extras_offset", "extras_size")
COLUMNS = ("key", "prompt", "shard", "seed", "index")


class ShardSet:
    """`prompts(rows)`, `pixels(rows)` and `noises(rows, shape)` of a finished set."""

    Config = ShardSetConfig

    def __init__(self, config: ShardSetConfig, resolution: int):
        self.config, self._folder, self._side = config, Path(config.path).expanduser(), resolution
        self._manifest = read_manifest(self._folder)
        self._known = self._manifest["shards"]
        self.fingerprint = hashlib.sha256(json.dumps(["shards-1", [self._known, resolution]]).encode()).hexdigest()
        stored = EXTRAS if self._manifest.get("encoders") else ()
        self._index = open_index(self._folder).read([*COLUMNS, *PICTURE, *stored])

    def __len__(self) -> int:
        return len(self._index)

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [self._told(int(row), "prompt") or "" for row in rows]

    def name(self, row: int) -> str:
        return f"{self._told(row, 'shard')}/{self._told(row, 'key')}"

    def flaw(self, row: int) -> Flaw | None:
        """Why a row cannot be trained on, if so; decodes its picture."""
        if not self.prompts([row])[0].strip():
            return Flaw("caption-empty", "has an empty caption")
        try:
            return flaw_of(self._place(row, *PICTURE))
        except Refused as error:
            return error.flaw

    def pixels(self, rows: Sequence[int]) -> Tensor:
        """[B, 3, H, W] in [-1, 1]."""
        return squares([(self.name(int(row)), self._place(int(row), *PICTURE)) for row in rows], self._side)

    def noises(self, rows: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The noise that each sample was drawn from, [B, *shape]: a function of its seed and index (`generation`)."""
        gens = [generator(self._told(int(row), "seed"), self._told(int(row), "index")) for row in rows]
        return torch.stack([torch.randn(tuple(shape), generator=gen) for gen in gens])

    def stored_latents(self, autoencoder: str, shape: tuple[int, ...]) -> Callable[[Sequence[int]], Tensor] | None:
        """Reads the latents [B, *shape] that the teacher left, if they are of this `identity.fingerprint` and size."""
        if self._manifest.get("encoders", {}).get("latents") != autoencoder or not len(self):
            return None
        fits = tuple(self._extra([0], "latent").shape[1:]) == shape
        return (lambda rows: self._extra(rows, "latent")) if fits else None

    def _extra(self, rows: Sequence[int], name: str) -> Tensor:
        from safetensors.torch import load

        return torch.stack([load(self._place(int(row), *EXTRAS).read())[name] for row in rows])

    def _place(self, row: int, *columns: str) -> Place:
        """Where a member lies; raises `Refused` where that is no shard of the set."""
        shard = self._told(row, "shard")
        if shard not in self._known:
            raise Refused("member-outside", f"lies in '{shard}' by index.parquet, which is no shard of the set")
        return Place(self._folder / shard, *(self._told(row, column) for column in columns))

    def _told(self, row: int, column: str) -> Any:
        return self._index[column][row].as_py()
