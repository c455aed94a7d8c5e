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
        self._manifest = read_manifest(self._folder)
        facts = [self._manifest["shards"], resolution]
        self.fingerprint = hashlib.sha256(json.dumps(["shards-1", facts]).encode()).hexdigest()
        columns = ("key", "prompt", "shard", "offset", "size", "seed", "index")
        stored = ("extras_offset", "extras_size") if self._manifest.get("encoders") else ()
        index = parquet.read_table(self._folder / INDEX, columns=[*columns, *stored])
        self._keys, self._prompts, self._shards, self._offsets, self._sizes, self._seeds, self._indices = (
            index[name] for name in columns
        )
        self._extras = [index[name] for name in stored]

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

    def stored_latents(self, autoencoder: str, shape: tuple[int, ...]) -> Callable[[Sequence[int]], Tensor] | None:
        """Reads the latents [B, *shape] that the teacher left, if they are of this `identity.fingerprint` and size."""
        if self._manifest.get("encoders", {}).get("latents") != autoencoder or not len(self):
            return None
        fits = tuple(self._extra([0], "latent").shape[1:]) == shape
        return (lambda rows: self._extra(rows, "latent")) if fits else None

    def _extra(self, rows: Sequence[int], name: str) -> Tensor:
        from safetensors.torch import load

        offsets, sizes = self._extras
        return torch.stack([load(self._content(int(row), offsets, sizes))[name] for row in rows])

    def _picture(self, row: int) -> tuple[str, bytes]:
        """Name and content of a picture file."""
        name = f"{self._shards[row].as_py()}/{self._keys[row].as_py()}"
        return name, self._content(row, self._offsets, self._sizes)

    def _content(self, row: int, offsets: Any, sizes: Any) -> bytes:
        with (self._folder / self._shards[row].as_py()).open("rb") as file:
            file.seek(offsets[row].as_py())
            return file.read(sizes[row].as_py())
