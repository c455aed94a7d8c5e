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
from apex_cli.data.members import worded
from apex_cli.data.picture_data import PictureConfig, PictureData
from apex_cli.data.pictures import Named, Source
from apex_cli.data.places import Place
from apex_cli.data.shards import open_index, read_manifest
from apex_cli.flow.condition import Cond
from apex_cli.generation import generator


class ShardSetConfig(PictureConfig):
    path: str = Field(min_length=1)
    """The folder with `manifest.json`; relative to where the command runs."""


PICTURE = ("offset", "size", "sha256")
EXTRAS = ("extras_offset", "extras_size", "extras_sha256")
COLUMNS = ("key", "prompt", "shard", "seed", "index")


class ShardSet(PictureData):
    """`prompts(rows)`, `pixels(rows)` and `noises(rows, shape)` of a finished set."""

    Config = ShardSetConfig

    def __init__(self, config: ShardSetConfig, resolution: int):
        super().__init__(config, resolution)
        self._folder = Path(config.path).expanduser()
        self._manifest = read_manifest(self._folder)
        self._known = self._manifest["shards"]
        self._encoders = self._manifest.get("encoders", {})
        """What is stored of each sample, and the `identity.fingerprint` of what encoded it."""
        stored = EXTRAS if self._encoders else ()
        self._index = open_index(self._folder).read([*COLUMNS, *PICTURE, *stored])

    def __len__(self) -> int:
        return len(self._index)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over resolution, crop, and what the manifest says of every shard."""
        return hashlib.sha256(json.dumps(["shards-1", [self._known, self.frame]]).encode()).hexdigest()

    def captions(self, rows: Sequence[int]) -> list[str | Flaw]:
        return [worded(self._told(int(row), "prompt")) for row in rows]

    def name(self, row: int) -> str:
        return f"{self._told(row, 'shard')}/{self._told(row, 'key')}"

    def picture(self, row: int) -> Source | Flaw:
        found = super().picture(row)
        if self._encoders and not isinstance(found, Flaw):
            try:
                self._place(row, *EXTRAS).read()
            except Refused as error:
                return error.flaw
        return found

    def pictures(self, rows: Sequence[int]) -> list[Named]:
        return [(self.name(int(row)), self._place(int(row), *PICTURE)) for row in rows]

    def noises(self, rows: Sequence[int], shape: Sequence[int]) -> Tensor:
        """The noise that each sample was drawn from, [B, *shape]: a function of its seed and index (`generation`)."""
        gens = [generator(self._told(int(row), "seed"), self._told(int(row), "index")) for row in rows]
        return torch.stack([torch.randn(tuple(shape), generator=gen) for gen in gens])

    def stored_latents(
        self, autoencoder: str, shape: tuple[int, ...], rows: Sequence[int] | None = None
    ) -> Callable[[Sequence[int]], Tensor] | None:
        """Reads the latents [B, *shape] that the teacher left, if they are of this `identity.fingerprint` and size.

        `rows`: those that may be asked for; None for all.
        """
        whole = range(len(self)) if rows is None else rows
        if self._encoders.get("latents") != autoencoder or not len(whole):
            return None
        fits = tuple(self._extras(whole[0])["latent"].shape) == shape
        return (lambda rows: torch.stack([self._extras(row)["latent"] for row in rows])) if fits else None

    def stored_texts(self, reader: str, rows: Sequence[int] | None = None) -> Callable[[str], Cond | None] | None:
        """Finds the embedding of a prompt that the teacher left, if it was read by this `identity.fingerprint`.

        `rows`: those to find it in; None for all. Of several the first one counts.
        """
        if self._encoders.get("text") != reader:
            return None
        every = range(len(self)) if rows is None else rows
        found = dict(zip(reversed(self.prompts(every)), reversed(every), strict=True))
        return lambda prompt: self._text(found[prompt]) if prompt in found else None

    def _text(self, row: int) -> Cond:
        stored = self._extras(row)
        tokens, pooled = stored["text"], stored.get("pooled")
        mask = torch.ones(1, len(tokens), dtype=torch.bool)
        return Cond(tokens[None], mask, None if pooled is None else pooled[None])

    def _extras(self, row: int) -> dict[str, Tensor]:
        from safetensors.torch import load

        return load(self._place(int(row), *EXTRAS).read())

    def _place(self, row: int, *columns: str) -> Place:
        """Where a member lies; raises `Refused` where that is no shard of the set."""
        shard = self._told(row, "shard")
        if shard not in self._known:
            raise Refused("member-outside", f"lies in '{shard}' by index.parquet, which is no shard of the set")
        return Place(self._folder / shard, *(self._told(row, column) for column in columns))

    def _told(self, row: int, column: str) -> Any:
        return self._index[column][row].as_py()
