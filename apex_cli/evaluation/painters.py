"""Who draws the pictures of an evaluation: a model of ours here, a stock pipeline in `baselines`."""

from __future__ import annotations

import hashlib
import json
import time
import typing
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from apex_cli.backbones import folders
from apex_cli.backbones.base import Backbone
from apex_cli.data.store import draft
from apex_cli.evaluation import pictures
from apex_cli.evaluation.base import Item
from apex_cli.evaluation.ledger import Ledger, Shard
from apex_cli.evaluation.records import Subject, write_whole
from apex_cli.generation import Request, SampleConfig, generate


class Painter(typing.Protocol):
    @property
    def subject(self) -> Subject: ...

    @property
    def nfe(self) -> int:
        """Network evaluations of a picture as configured; what is reported is counted."""
        ...

    @property
    def unusual(self) -> list[str]:
        """What of its settings should stand in the name of a folder."""
        ...

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[np.ndarray, float]]:
        """Pixels uint8 [H, W, 3] and counted evaluations of each, all in one batch; a picture depends on its request
        alone, but for the last bits of its sums, which depend on the batch it is in."""
        ...


class Model(typing.Protocol):
    """A model with its contract, as the composition root loads it."""

    @property
    def backbone(self) -> Backbone: ...
    @property
    def sample(self) -> SampleConfig: ...
    @property
    def contract(self) -> Mapping[str, Any]: ...
    @property
    def source(self) -> Path: ...


@dataclass(frozen=True)
class Checkpoint:
    """A model of ours."""

    model: Model

    @property
    def subject(self) -> Subject:
        model = self.model
        return Subject(
            source=folders.named(model.source),
            weights=weights_hash(model.source),
            contract=dict(model.contract),
            sample=model.sample.model_dump(mode="json"),
            sigmas=model.sample.grid(),
        )

    @property
    def nfe(self) -> int:
        return self.model.sample.nfe

    @property
    def unusual(self) -> list[str]:
        sample = self.model.sample
        sampler = [sample.sampler] * (sample.sampler != "renoise")
        return sampler + [f"guidance{sample.guidance:g}"] * (sample.guidance != 1)

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[np.ndarray, float]]:
        for sample in generate(self.model.backbone, self.model.sample, requests, len(requests)):
            yield sample.pixels, sample.nfe


def weights_hash(source: Path) -> str:
    """SHA-256 of a checkpoint's manifest, which holds the hash of each of its files; without one, of the weights."""
    manifest = source / "manifest.json"
    files = [manifest] if manifest.is_file() else sorted(source.rglob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def version_of(model: Path) -> str:
    """SHA-256 of the weights of a folder; the commit of a hub repository."""
    return weights_hash(model) if model.is_dir() else folders.commit(str(model)) or ""


@dataclass(frozen=True)
class Drawing:
    """One picture to make and where it goes."""

    item: Item
    k: int
    request: Request
    path: Path


def drawings(folder: Path, chosen: Sequence[tuple[int, Item]], n: int, seed: int) -> list[Drawing]:
    """All pictures of prompts (place in the whole set, prompt): picture k has the noise of (seed, place * n + k)."""
    return [
        Drawing(item, k, Request(item.text, seed, spot * n + k), pictures.place(folder, item, k))
        for spot, item in chosen
        for k in range(n)
    ]


def paint(
    painter: Painter, batches: Iterable[Sequence[Drawing]], have: Container[Path], folder: Path, shard: Shard
) -> Iterator[int]:
    """Draw all that `have` lacks; yields how many are done. A picture is on disk before its line in `drawn.jsonl` is.

    A batch is drawn whole, so that every picture has the same neighbours, and the same bits, on every way to it.
    """
    ledger = Ledger(folder, "drawn", shard)
    done = 0
    for batch in batches:
        if all(drawing.path in have for drawing in batch):
            continue
        began = time.perf_counter()
        made = list(painter.draw([drawing.request for drawing in batch]))
        seconds = (time.perf_counter() - began) / len(batch)
        for drawing, (pixels, nfe) in zip(batch, made, strict=True):
            if drawing.path in have:
                continue
            _save(drawing, pixels)
            request = drawing.request
            facts = {"index": request.index, "seed": request.seed, "nfe": nfe, "seconds": seconds}
            ledger.append({"item": drawing.item.id, "k": drawing.k, **facts})
            done += 1
            yield done


def _save(drawing: Drawing, pixels: np.ndarray) -> None:
    drawing.path.parent.mkdir(parents=True, exist_ok=True)
    temporary = draft(drawing.path)
    Image.fromarray(pixels).save(temporary, format="PNG")
    temporary.replace(drawing.path)
    home = drawing.path.parents[1]
    if not (home / pictures.METADATA).is_file():
        item = drawing.item
        row = {"tag": item.tag, **item.meta, "prompt": item.prompt}
        write_whole(home / pictures.METADATA, json.dumps(row) + "\n")


def drawn(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """(prompt id, k) -> how it was drawn, of all that were."""
    rows = {}
    for row in Ledger(folder, "drawn"):
        item, k = row.pop("item"), row.pop("k")
        rows[item, k] = row
    return rows
