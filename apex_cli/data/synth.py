"""Teacher pairs: prompts in, shards of (picture, prompt, provenance) out.

Sample k shows prompt k // images_per_prompt with the noise of (seed, k). A shard is drawn in fixed batches, sorted by
the length of their prompts, and packed when its last one lies on disk. So a killed run goes on where it stood, any
number of workers may share the shards, and the finished set is the same to the byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field, PositiveInt

from apex_cli.backbones.base import Backbone
from apex_cli.config import Section
from apex_cli.data import shards
from apex_cli.errors import UsageError
from apex_cli.generation import Request, Sample, SampleConfig, generate
from apex_cli.records import Progress

REQUEST = "request.json"
WRITERS = 4
"""Threads that encode and write pictures beside the drawing."""


class SynthConfig(Section):
    images_per_prompt: PositiveInt = 1
    seed: int = 0
    batch: PositiveInt = 16
    """Images per forward."""
    shard_size: PositiveInt = 1000
    image: Literal["png", "webp", "jpg"] = "png"
    quality: int = Field(default=95, ge=1, le=100)
    """Of webp and jpg."""
    latents: bool = False
    """Also store the latent of each picture, [C, h, w] as float16 in safetensors."""


@dataclass(frozen=True)
class Order:
    """What is to be made: `teacher` says for the record who draws."""

    backbone: Backbone
    sample: SampleConfig
    config: SynthConfig
    prompts: Sequence[str]
    teacher: Mapping[str, Any]

    @property
    def identity(self) -> dict[str, Any]:
        """What the bytes of the set depend on."""
        text = "\n".join(self.prompts).encode()
        return {
            "teacher": dict(self.teacher),
            "sample": self.sample.model_dump(mode="json"),
            "synth_data": self.config.model_dump(mode="json"),
            "prompts": {"count": len(self.prompts), "sha256": hashlib.sha256(text).hexdigest()},
        }

    @property
    def samples(self) -> int:
        return len(self.prompts) * self.config.images_per_prompt

    @property
    def shard_count(self) -> int:
        return -(-self.samples // self.config.shard_size)

    def numbers(self, shard: int) -> range:
        """The samples of a shard."""
        size = self.config.shard_size
        return range(shard * size, min((shard + 1) * size, self.samples))

    def batches(self, shard: int) -> list[list[Request]]:
        """The requests of a shard, short prompts first."""
        c = self.config
        requests = [Request(self.prompts[k // c.images_per_prompt], c.seed, k) for k in self.numbers(shard)]
        requests.sort(key=lambda request: (len(request.prompt), request.index))
        return [requests[i : i + c.batch] for i in range(0, len(requests), c.batch)]


def synthesise(order: Order, folder: Path, part: int = 0, parts: int = 1) -> Iterator[Progress]:
    """Draw the shards `part`, `part + parts`, ... into `folder`; yields how many samples of them are done.

    Raises `UsageError` where `folder` holds another set.
    """
    _open(folder, order)
    own = range(part, order.shard_count, parts)
    total, done = sum(len(order.numbers(shard)) for shard in own), 0
    with ThreadPoolExecutor(WRITERS) as pool:
        for shard in own:
            if shards.is_packed(folder, shard):
                done += len(order.numbers(shard))
                yield Progress("draw", done, total)
                continue
            staged = folder / f".{shards.shard_name(shard)}"
            staged.mkdir(exist_ok=True)
            for finished in _draw(order, shard, staged, pool):
                done += finished
                yield Progress("draw", done, total)
            rows = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(staged.glob("*.json"))]
            shards.pack(folder, shard, staged, rows)
            shutil.rmtree(staged)
    if all(shards.is_packed(folder, shard) for shard in range(order.shard_count)):
        shards.finish(folder, order.shard_count, order.identity)


def _open(folder: Path, order: Order) -> None:
    asked = order.identity
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REQUEST
    if path.is_file() and (different := [k for k, v in json.loads(path.read_text()).items() if v != asked[k]]):
        raise UsageError(
            f"'{folder}' holds another set: it differs in {', '.join(different)}.", "Choose another --out."
        )
    shards.write_whole(path, json.dumps(asked, indent=1).encode())


def _draw(order: Order, shard: int, staged: Path, pool: ThreadPoolExecutor) -> Iterator[int]:
    """Draw what a shard lacks, whole batches; a batch is written while the next one is drawn."""
    writing: list[Future[None]] = []
    for batch in order.batches(shard):
        if not all((staged / f"{_key(request)}.json").is_file() for request in batch):
            made = list(generate(order.backbone, order.sample, batch, len(batch)))
            _wait(writing)
            writing = [pool.submit(_write, sample, order, staged) for sample in made]
        yield len(batch)
    _wait(writing)


def _wait(writing: Sequence[Future[None]]) -> None:
    for future in writing:
        future.result()


def _key(request: Request) -> str:
    return f"{request.index:08d}"


def _write(sample: Sample, order: Order, staged: Path) -> None:
    """The files of one sample; its json comes last and says that the others are there."""
    config, request = order.config, sample.request
    key, sink = _key(request), io.BytesIO()
    form = "jpeg" if config.image == "jpg" else config.image
    Image.fromarray(sample.pixels).save(sink, form, **({} if form == "png" else {"quality": config.quality}))
    (staged / f"{key}.{config.image}").write_bytes(sink.getvalue())
    if config.latents:
        from safetensors.torch import save_file

        save_file({"latent": sample.latent.half().cpu().contiguous()}, staged / f"{key}.safetensors")
    height, width = sample.pixels.shape[:2]
    facts = {
        "key": key,
        "image": config.image,
        "prompt": request.prompt,
        "seed": request.seed,
        "index": request.index,
        "width": width,
        "height": height,
        "teacher": order.teacher["weights"],
        "sampler": order.sample.sampler,
        "nfe": sample.nfe,
        "guidance": order.sample.guidance,
    }
    shards.write_whole(staged / f"{key}.json", json.dumps(facts, ensure_ascii=False).encode())
