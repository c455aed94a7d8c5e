"""Latents of a fixed data set, encoded once: shards of equal size on disk, row after row, each of one picture size.

Or none at all, where only their shape is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from apex_cli.data import identity, store
from apex_cli.data.pools import alike, pools
from apex_cli.errors import StorageError

IMAGES, PIXELS = 64, 2**22
"""Most images, and most pixels, that the autoencoder is given at once."""
ROWS = 4096
"""Most rows of a shard."""


class Latents:
    """`latents[rows]` is [B, C, h, w] once every shard is there; the rows are of one picture size.

    What is given to the autoencoder at once (`batch`) never crosses a shard, and the last bits of a row depend on the
    rows beside it: so the files are the same whoever encodes which shard.
    """

    def __init__(
        self, backbone: Any, data: Any, device: torch.device, about: dict[str, str], once: store.Once = store.each
    ):
        """`data` has `len`, `pixels(rows)` and a `fingerprint`."""
        self.backbone, self.data, self.device = backbone, data, device
        height, width = data.pixels([0]).shape[-2:]
        self.batch = max(1, min(IMAGES, PIXELS // (height * width)))
        rows = min(ROWS, store.SHARD_BYTES // (4 * prod(backbone.latent_shape)))
        self.rows = max(1, rows // self.batch) * self.batch
        sizes = alike(data)
        find = getattr(data, "stored_latents", None) if len(sizes) == 1 else None
        autoencoder = once(lambda: identity.module(backbone.autoencoder))
        self.stored = find and find(identity.fingerprint(autoencoder), tuple(backbone.latent_shape))
        """Reads rows that whoever made the pictures left as latents of this very autoencoder; else None."""
        self.spans = [own[i : i + self.rows] for own in sizes for i in range(0, len(own), self.rows)]
        """Rows of every shard."""
        self.places = np.empty((len(data), 2), np.int32)
        """Shard of every row, and its place there."""
        for number, span in enumerate(self.spans):
            self.places[span] = np.stack([np.full(len(span), number), np.arange(len(span))], axis=1)
        made_of = {
            **({"stored": True} if self.stored else {}),
            "data": data.fingerprint,
            "autoencoder": autoencoder,
            "batch": self.batch,
            "rows": self.rows,
            "device": device.type,
        }
        self.store = store.Store("latents", made_of, about)
        self.shards: list[Tensor] = []

    def _path(self, number: int) -> Path:
        return self.store.folder / f"{number:05d}.safetensors"

    def missing(self) -> list[int]:
        """Numbers of the shards that are not there yet."""
        return [n for n in range(len(self.spans)) if not self._path(n).is_file()]

    def encode(self, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
        """Encode and write the shards `numbers`, yielding (rows done, rows in all)."""
        spans = [self.spans[n] for n in numbers]
        done, total = 0, sum(map(len, spans))
        for number, span in zip(numbers, spans, strict=True):
            parts = []
            for start in range(0, len(span), self.batch):
                parts.append(self._encode(span[start : start + self.batch].tolist()))
                done += len(parts[-1])
                yield done, total
            store.write(self._path(number), len(span), {"latents": torch.cat(parts).contiguous()})

    @torch.no_grad()
    def _encode(self, rows: Sequence[int]) -> Tensor:
        if self.stored:
            return self.stored(rows)
        return self.backbone.encode_images(self.data.pixels(rows).to(self.device)).cpu()

    def open(self) -> None:
        """Map all shards; raises `StorageError` where another rank has written one that is not seen here."""
        if missing := self.missing():
            raise StorageError(f"'{self._path(missing[0])}' is not there.", store.SHARED)
        self.shards = [store.read(self._path(n))["latents"] for n in range(len(self.spans))]

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.stack([self.shards[shard][place] for shard, place in self.places[rows.numpy()].tolist()])


class Joined:
    """`latents[rows]` of several data sets, their rows one behind the other."""

    def __init__(self, parts: Sequence[Latents]):
        self.parts = parts
        self.ends = np.cumsum([len(part.data) for part in parts])

    def __getitem__(self, rows: Tensor) -> Tensor:
        owners = np.searchsorted(self.ends, rows.numpy(), side="right").tolist()
        starts = [0, *self.ends.tolist()]
        own = [rows[i : i + 1] - starts[owner] for i, owner in enumerate(owners)]
        return torch.cat([self.parts[owner][row] for owner, row in zip(owners, own, strict=True)])


class Blank:
    """`latents[rows]` is zeros, of the shape that pictures of these rows would give; the rows are of one size."""

    def __init__(self, backbone: Any, data: Any):
        self.channels, *square = backbone.latent_shape
        self.shapes = np.empty((len(data), 2), np.int32)
        """(h, w) of every row."""
        for pool in pools(data):
            if pool.size is None:
                self.shapes[pool.rows] = square
            else:
                self.shapes[pool.rows] = np.array(pool.size[::-1]) // (backbone.multiple // backbone.patch)

    def __getitem__(self, rows: Tensor) -> Tensor:
        return torch.zeros(len(rows), self.channels, *self.shapes[int(rows[0])].tolist())
