"""Prompt embeddings, each distinct prompt encoded once: found on disk by its text and by what encoded it.

The folder belongs to a text encoder with its tokenizer and settings, not to a data set: a changed caption encodes only
itself, and data sets with the same captions share them. A shard holds the real tokens of its prompts one behind the
other, and its own index: `keys` [n, 32] (SHA-256 of the prompts), `lengths` [n]. Its name is a hash of the keys, so
nobody overwrites what another process has written, and no index file has to be kept in step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from apex_cli.data import identity, store
from apex_cli.errors import StorageError
from apex_cli.flow.condition import Cond

ROWS = 1024
"""Most prompts of a shard."""


def key_of(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode()).digest()


class Prompts:
    """`prompts[text]` is the condition of one prompt, [1, L, D], once it was encoded.

    Prompts are encoded one at a time: the last bits of a row depend on the rows beside it. So those that a teacher read
    by the batch and left with its pictures lie in a folder of their data set's own.
    """

    def __init__(
        self, backbone: Any, prompts: Iterable[str], device: torch.device, about: dict[str, str], data: Any = None,
        once: store.Once = store.each,
    ):  # fmt: skip
        """`data`: a set that may have some of them stored."""
        self.backbone = backbone
        self.wanted = {key_of(prompt): prompt for prompt in prompts}
        reader = once(lambda: identity.reader(backbone))
        find = getattr(data, "stored_texts", None)
        self.stored = find and find(identity.fingerprint(reader))
        made_of = reader | {"device": device.type} | ({"stored": data.fingerprint} if self.stored else {})
        self.store = store.Store("prompts", made_of, about)
        self.rows: dict[bytes, tuple[dict[str, Tensor], int, int, int]] = {}

    def _index(self) -> None:
        """Find the wanted prompts in the shards: (shard, row, first and last token)."""
        self.rows = {}
        for path in self.store.shards():
            shard = store.read(path)
            keys, last = shard["keys"].numpy().tobytes(), shard["lengths"].cumsum(0).tolist()
            for row, (first, end) in enumerate(zip([0, *last], last, strict=False)):
                if (key := keys[32 * row : 32 * row + 32]) in self.wanted:
                    self.rows[key] = (shard, row, first, end)

    def missing(self) -> list[str]:
        """Wanted prompts that are not there yet."""
        self._index()
        return [prompt for key, prompt in self.wanted.items() if key not in self.rows]

    def encode(self, prompts: Sequence[str]) -> Iterator[tuple[int, int]]:
        """Encode and write `prompts`, yielding (prompts done, prompts in all)."""
        full: dict[bytes, Cond] = {}
        size = 0
        for done, prompt in enumerate(prompts, start=1):
            cond = self._encode(prompt)
            full[key_of(prompt)] = cond
            size += cond.tokens.nbytes
            if len(full) == ROWS or size >= store.SHARD_BYTES or done == len(prompts):
                self._write(full)
                full, size = {}, 0
            yield done, len(prompts)

    @torch.no_grad()
    def _encode(self, prompt: str) -> Cond:
        return (self.stored and self.stored(prompt)) or self.backbone.encode_prompts([prompt]).to("cpu")

    def _write(self, conds: dict[bytes, Cond]) -> None:
        keys = b"".join(conds)
        tokens = [cond.tokens[0][cond.mask[0]] for cond in conds.values()]
        pooled = [cond.pooled for cond in conds.values() if cond.pooled is not None]
        tensors = {
            "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8).reshape(-1, 32),
            "lengths": torch.tensor([len(row) for row in tokens]),
            "tokens": torch.cat(tokens),
        }
        if pooled:
            tensors["pooled"] = torch.cat(pooled)
        name = hashlib.sha256(keys).hexdigest()[:16]
        store.write(self.store.folder / f"{name}.safetensors", len(conds), tensors)

    def open(self) -> None:
        """Map all shards; raises `StorageError` where another rank has written one that is not seen here."""
        if missing := self.missing():
            raise StorageError(f"{len(missing)} prompts are not in '{self.store.folder}'.", store.SHARED)

    def __getitem__(self, prompt: str) -> Cond:
        shard, row, first, end = self.rows[key_of(prompt)]
        pooled = shard["pooled"][row : row + 1] if "pooled" in shard else None
        tokens = shard["tokens"][first:end]
        return Cond(tokens[None], torch.ones(1, len(tokens), dtype=torch.bool), pooled)
