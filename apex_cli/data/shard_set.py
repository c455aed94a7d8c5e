"""A set that `apex synth-data` made, as training data: a row is a sample, read from its place in its shard."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from apex_cli.data.flaws import Flaw, Refused
from apex_cli.data.picture_data import PictureConfig, PictureData
from apex_cli.data.pictures import Named, Source
from apex_cli.data.places import Place
from apex_cli.data.shards import open_index, read_manifest
from apex_cli.generation import generator


class ShardSetConfig(PictureConfig):
    path: str = Field(min_length=1)
    """The folder with `manifest.json`; relative to where the command runs."""


PICTURE = ("offset", "size", "sha256")
EXTRAS = ("extras_offset", "extras_size")
COLUMNS = ("key", "prompt", "shard", "seed", "index")


class ShardSet(PictureData):
    """`prompts(rows)`, `pixels(rows)` and `noises(rows, shape)` of a finished set."""

    Config = ShardSetConfig

    def __init__(self, config: ShardSetConfig, resolution: int):
        super().__init__(config, resolution)
        self._folder = Path(config.path).expanduser()
        self._manifest = read_manifest(self._folder)
        self._known = self._manifest["shards"]
        stored = EXTRAS if self._manifest.get("encoders") else ()
        self._index = open_index(self._folder).read([*COLUMNS, *PICTURE, *stored])

    def __len__(self) -> int:
        return len(self._index)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over resolution, crop, and what the manifest says of every shard."""
        return hashlib.sha256(json.dumps(["shards-1", [self._known, self.frame]]).encode()).hexdigest()

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [self._told(int(row), "prompt") or "" for row in rows]

    def name(self, row: int) -> str:
        return f"{self._told(row, 'shard')}/{self._told(row, 'key')}"

    def probe(self, row: int) -> Source | Flaw:
        if not self.prompts([row])[0].strip():
            return Flaw("caption-empty", "has an empty caption")
        return super().probe(row)

    def pictures(self, rows: Sequence[int]) -> list[Named]:
        return [(self.name(int(row)), self._place(int(row), *PICTURE)) for row in rows]

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
