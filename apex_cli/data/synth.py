"""Teacher pairs: prompts in, shards of (picture, prompt, provenance) out.

Sample k shows prompt k // images_per_prompt with the noise of (seed, k). With `best_of = n`, n candidates are drawn
for each prompt, candidate c of prompt p with the noise of (seed, n p + c), and the scorer keeps `images_per_prompt`.
A shard is drawn in fixed batches, sorted by the length of their prompts; each is staged as one file, and the shard is
packed when its last one lies on disk. So a killed run goes on where it stood, any number of workers may share the
shards, and the finished set is the same to the byte.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, Protocol

from PIL import Image
from pydantic import Field, PositiveInt, model_validator

from apex_cli.backbones.base import Backbone
from apex_cli.config import Section
from apex_cli.data import identity, shards, store
from apex_cli.errors import UsageError
from apex_cli.generation import Request, Sample, SampleConfig, generate
from apex_cli.records import Progress

REQUEST = "request.json"
ENCODERS = 4
"""Threads that compress pictures beside the drawing."""


class TeacherConfig(Section):
    ckpt: str | None = None
    """A run, checkpoint, export, or assets:NAME. Without it `[backbone]` draws, and without that the shapes teacher."""


class SynthConfig(Section):
    images_per_prompt: PositiveInt = 1
    best_of: PositiveInt | None = None
    """Candidates for each prompt, of which `[scorer]` keeps the best `images_per_prompt`; None draws no other."""
    seed: int = 0
    batch: PositiveInt = 16
    """Images per forward."""
    shard_size: PositiveInt = 1000
    """Samples of a shard."""
    image: Literal["png", "webp", "jpg"] = "png"
    quality: int = Field(default=95, ge=1, le=100)
    """Of webp and jpg."""
    store: tuple[Literal["latents", "noise", "text"], ...] = ()
    """What else to keep of each sample in safetensors: `latent` and `noise` [C, h, w], `text` [L, D] with `pooled` [P]
    where there is one, as the teacher computed them."""

    @model_validator(mode="after")
    def _whole_prompts(self) -> SynthConfig:
        if self.best_of is None:
            return self
        if self.best_of < self.images_per_prompt:
            raise ValueError(f"best_of = {self.best_of} cannot keep {self.images_per_prompt} images")
        if self.shard_size % self.images_per_prompt:
            raise ValueError(f"with best_of, shard_size must be a multiple of {self.images_per_prompt} images")
        return self


class Scorer(Protocol):
    """Judges pictures; what it says depends on the sample alone, and on the rows beside it at most in the last bits."""

    name: str
    identity: Mapping[str, Any]
    """JSON: what its scores depend on."""

    def score(self, samples: Sequence[Sample]) -> list[float]:
        """One number each; more is better."""
        ...


@dataclass(frozen=True)
class Job:
    """Images drawn together, and the numbers of the samples that come of them."""

    requests: list[Request]
    numbers: list[int]


@dataclass(frozen=True)
class Order:
    """What is to be made: `teacher` says for the record who draws, `recipe` how it was asked for."""

    backbone: Backbone
    sample: SampleConfig
    config: SynthConfig
    prompts: Sequence[str]
    teacher: Mapping[str, Any]
    scorer: Scorer | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What the bytes of the set depend on."""
        text = "\n".join(self.prompts).encode()
        return {
            "teacher": dict(self.teacher),
            "sample": self.sample.model_dump(mode="json"),
            "synth": self.config.model_dump(mode="json"),
            "scorer": None if self.scorer is None else dict(self.scorer.identity),
            "prompts": {"count": len(self.prompts), "sha256": hashlib.sha256(text).hexdigest()},
            "encoders": identity.encoders(self.backbone, self.config.store),
        }

    @property
    def samples(self) -> int:
        return len(self.prompts) * self.config.images_per_prompt

    @property
    def shard_count(self) -> int:
        return -(-self.samples // self.config.shard_size)

    @property
    def choice(self) -> tuple[int, int]:
        """(candidates, kept ones) of a choice."""
        c = self.config
        return (c.best_of, c.images_per_prompt) if c.best_of else (1, 1)

    def numbers(self, shard: int) -> range:
        """The samples of a shard."""
        size = self.config.shard_size
        return range(shard * size, min((shard + 1) * size, self.samples))

    def jobs(self, shard: int) -> list[Job]:
        """What is drawn for a shard, short prompts first."""
        c, numbers, (drawn, kept) = self.config, self.numbers(shard), self.choice
        choices = []
        for first in range(numbers.start, numbers.stop, kept):
            prompt, start = self.prompts[first // c.images_per_prompt], first // kept * drawn
            choices.append(
                Job([Request(prompt, c.seed, start + i) for i in range(drawn)], list(range(first, first + kept)))
            )
        choices.sort(key=lambda job: (len(job.requests[0].prompt), job.numbers))
        width = max(1, c.batch // drawn)
        return [_together(choices[i : i + width]) for i in range(0, len(choices), width)]


def _together(jobs: Sequence[Job]) -> Job:
    return Job([r for job in jobs for r in job.requests], [n for job in jobs for n in job.numbers])


@dataclass(frozen=True)
class Chosen:
    """A sample of the set: its number in it, and what the scorer said."""

    number: int
    sample: Sample
    scores: dict[str, float]


def synthesise(order: Order, folder: Path, part: int = 0, parts: int = 1) -> Iterator[Progress]:
    """Draw the shards `part`, `part + parts`, ... into `folder`; yields how many samples of them are done.

    Raises `UsageError` where `folder` holds another set.
    """
    _open(folder, order)
    own = range(part, order.shard_count, parts)
    total, done = sum(len(order.numbers(shard)) for shard in own), 0
    with ThreadPoolExecutor(1) as writer, ThreadPoolExecutor(ENCODERS) as encoders:
        for shard in own:
            staged = folder / f".{shards.shard_name(shard)}"
            if shards.is_packed(folder, shard):
                done += len(order.numbers(shard))
                yield Progress("draw", done, total)
            else:
                staged.mkdir(exist_ok=True)
                for finished in _draw(order, shard, staged, writer, encoders):
                    done += finished
                    yield Progress("draw", done, total)
                shards.pack(folder, shard, sorted(staged.glob("*.tar")))
            shutil.rmtree(staged, ignore_errors=True)  # also where a kill came between the packing and this
    if all(shards.is_packed(folder, shard) for shard in range(order.shard_count)):
        shards.finish(folder, order.shard_count, json.loads((folder / REQUEST).read_text(encoding="utf-8")))


def _open(folder: Path, order: Order) -> None:
    """Say in `folder` what comes here, the first worker for all, and clear away what dead ones left half written."""
    if order.config.best_of and order.scorer is None:
        raise UsageError("synth.best_of needs a scorer.", "Add --scorer shapes or clip.")
    asked = order.identity
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / REQUEST
    if path.is_file():
        stored = json.loads(path.read_text(encoding="utf-8"))
        if different := [key for key in asked if stored.get(key) != asked[key]]:
            told = f"'{folder}' holds another set: it differs in {', '.join(different)}."
            raise UsageError(told, "Choose another --out.")
    else:
        shards.write_whole(path, json.dumps({**asked, "recipe": dict(order.recipe)}, indent=1).encode())
    for place in (".", ".shard-*"):
        for draft in folder.glob(f"{place}/.*{store.PARTIAL}"):
            if store.is_abandoned(draft):
                draft.unlink(missing_ok=True)


def _draw(order: Order, shard: int, staged: Path, writer: Executor, encoders: Executor) -> Iterator[int]:
    """Draw the jobs that a shard lacks; one is written while the next is drawn."""
    writing: Future[None] | None = None
    for place, job in enumerate(order.jobs(shard)):
        file = staged / f"{place:06d}.tar"
        if not file.is_file():
            made = list(generate(order.backbone, order.sample, job.requests, order.config.batch))
            kept = _choose(order, job, made)
            if writing:
                writing.result()
            writing = writer.submit(_stage, file, order, kept, encoders)
        yield len(job.numbers)
    if writing:
        writing.result()


def _choose(order: Order, job: Job, made: Sequence[Sample]) -> list[Chosen]:
    """The best of each choice, in the order they were drawn; of equal ones the first."""
    if order.scorer is None:
        return [Chosen(number, sample, {}) for number, sample in zip(job.numbers, made, strict=True)]
    drawn, kept = order.choice
    scores = order.scorer.score(made)
    best: list[int] = []
    for start in range(0, len(made), drawn):
        ranked = sorted(range(start, start + drawn), key=lambda i: -scores[i])
        best += sorted(ranked[:kept])
    name = order.scorer.name
    return [Chosen(number, made[i], {name: scores[i]}) for number, i in zip(job.numbers, best, strict=True)]


def _stage(file: Path, order: Order, kept: Sequence[Chosen], encoders: Executor) -> None:
    shards.stage(file, [entry for entries in encoders.map(partial(_entries, order), kept) for entry in entries])


def _entries(order: Order, kept: Chosen) -> list[tuple[str, bytes]]:
    """(name, content) of the files of one sample."""
    config, sample, request, sink = order.config, kept.sample, kept.sample.request, io.BytesIO()
    form = "jpeg" if config.image == "jpg" else config.image
    Image.fromarray(sample.pixels).save(sink, form, **({} if form == "png" else {"quality": config.quality}))
    key, (height, width) = f"{kept.number:08d}", sample.pixels.shape[:2]
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
        **({"scores": kept.scores} if kept.scores else {}),
    }
    entries = [
        (f"{key}.{config.image}", sink.getvalue()),
        (f"{key}.json", json.dumps(facts, ensure_ascii=False).encode()),
    ]
    if config.store:
        entries.append((f"{key}.safetensors", _extras(sample, config.store)))
    return entries


def _extras(sample: Sample, wanted: Sequence[str]) -> bytes:
    from safetensors.torch import save

    tensors = {}
    if "latents" in wanted:
        tensors["latent"] = sample.latent
    if "noise" in wanted:
        tensors["noise"] = sample.noise
    if "text" in wanted:
        tensors["text"] = sample.cond.tokens[0][sample.cond.mask[0]]
        if sample.cond.pooled is not None:
            tensors["pooled"] = sample.cond.pooled[0]
    return save({name: value.cpu().contiguous() for name, value in tensors.items()})
