"""Writer and reader of shards as ratios, each against the least that could do it, in alternating runs of one process.

writer   `synthesise` with a teacher that costs next to nothing, against the same pictures compressed by as many threads
         into one tar
packing  files that are compressed already into a shard that outlives any kill (staged, hashed, indexed), against one
         tar of them
reader   `ShardSet.pixels` in shuffled batches, against Pillow and as many threads over the same files in memory
memory   resident bytes over many samples of 16 px, from a tenth of them on, for writing and for reading

A ratio is ours over bare images per second, the median of its rounds with a 95 % interval (bootstrap over rounds); who
goes first changes from round to round. All that is written is brought to the disk before a clock stops.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from rich.progress import track

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from apex_cli.benching.flatness import Memory
from apex_cli.benching.statistics import Interval, paired_ratio
from apex_cli.commands._ui import say, stderr
from apex_cli.data import shards
from apex_cli.data.shard_set import ShardSet, ShardSetConfig
from apex_cli.data.store import flush
from apex_cli.data.synth import ENCODERS, Order, SynthConfig, synthesise
from apex_cli.flow.condition import Cond
from apex_cli.generation import Sample, SampleConfig, generate

BATCH = 16
ASKED = {"writer": 0.5, "reader": 0.8}
"""Ratios that are asked for."""

Entries = list[tuple[str, bytes]]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Size:
    """`samples` pictures of `side` pixels in each of `rounds`; `many` samples for the memory."""

    samples: int
    side: int
    rounds: int
    many: int


SIZES = {"tiny": Size(16, 32, 2, 320), "small": Size(32, 256, 9, 2_000), "full": Size(128, 512, 15, 100_000)}
"""tiny only runs the code: of pictures so small, most of the time goes into opening files and waiting for the disk."""


class Painter:
    """A backbone that draws smooth noise in no time: one evaluation is the noise itself."""

    latent_shape, patch, times = (3, 8, 8), 1, None

    def __init__(self, side: int):
        self.side = side

    def encode_prompts(self, prompts):
        return Cond(torch.zeros(len(prompts), 1, 1), torch.ones(len(prompts), 1, dtype=torch.bool))

    def velocity(self, x_t, t, cond):
        return torch.zeros_like(x_t)

    def decode(self, latents):
        return torch.nn.functional.interpolate(latents, (self.side, self.side), mode="bicubic").tanh()


def order(samples: int, side: int) -> Order:
    prompts = [f"picture {i}" for i in range(samples)]
    config = SynthConfig(batch=BATCH, shard_size=1000)
    teacher: Any = Painter(side)
    return Order(teacher, SampleConfig(), config, prompts, {"name": "smooth noise", "weights": "none"})


def bare_writer(what: Order, path: Path) -> None:
    """The same pictures and rows into one tar, nothing else."""
    with ThreadPoolExecutor(ENCODERS) as pool:
        jobs = (job for shard in range(what.shard_count) for job in what.jobs(shard))
        made = (pool.map(_files, generate(what.backbone, what.sample, job.requests, BATCH)) for job in jobs)
        bare_tar((entry for batch in made for entries in batch for entry in entries), path)


def _files(made: Sample) -> Entries:
    request, sink = made.request, io.BytesIO()
    Image.fromarray(made.pixels).save(sink, "png")
    row = json.dumps({"prompt": request.prompt, "index": request.index}).encode()
    return [(f"{request.index:08d}.png", sink.getvalue()), (f"{request.index:08d}.json", row)]


def bare_tar(entries: Iterator[tuple[str, bytes]], path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in entries:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    flush(path)


def packed(batches: Sequence[Entries], folder: Path) -> None:
    """The way of `synthesise` from compressed files to a finished shard."""
    staged = [folder / f"{number:06d}.tar" for number in range(len(batches))]
    for path, entries in zip(staged, batches, strict=True):
        shards.stage(path, entries)
    shards.pack(folder, 0, staged)


def bare_reader(batches: Sequence[Sequence[bytes]]) -> None:
    """Bytes to tensors in [-1, 1], the pictures as they come."""
    with ThreadPoolExecutor() as pool:
        for batch in batches:
            pixels = torch.from_numpy(np.stack(list(pool.map(_decoded, batch))))
            pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _decoded(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def followed(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """`items`, told of on stderr: by a bar with the time left, or every fifth part where there is no terminal."""
    live = stderr().is_terminal
    bar = track(items, what, total=total, console=stderr(), transient=True, disable=not live)
    for number, item in enumerate(bar, 1):
        yield item
        if not live and number * 5 // total > (number - 1) * 5 // total:
            say(f"{what}: {number} of {total}")


Times = dict[str, list[tuple[float, float]]]
"""What is measured -> (seconds of ours, seconds of the bare way) of every round."""


def rates(size: Size, folder: Path) -> dict[str, dict[str, Any]]:
    """Images per second of ours and of the bare way, and their ratio, after one round that is not counted."""
    times: Times = {name: [] for name in ("writer", "packing", "reader")}
    for number in followed(range(size.rounds + 1), size.rounds + 1, "rates, rounds"):
        place = folder / "round"
        place.mkdir()
        _round(number, size, place, times)
        shutil.rmtree(place)
    return {name: _row(size.samples, pairs[1:]) for name, pairs in times.items()}


def _round(number: int, size: Size, folder: Path, times: Times) -> None:
    def pair(name: str, ours: Callable[[], Any], bare: Callable[[], Any]) -> None:
        first = seconds(ours) if number % 2 else None
        of_bare = seconds(bare)
        times[name].append((first or seconds(ours), of_bare))

    what, made = order(size.samples, size.side), folder / "set"
    pair("writer", lambda: list(synthesise(what, made)), lambda: bare_writer(what, folder / "bare.tar"))

    data = ShardSet(ShardSetConfig(path=str(made)), size.side)
    shuffled = np.random.default_rng(number).permutation(size.samples)
    rows = [batch.tolist() for batch in np.array_split(shuffled, -(-size.samples // BATCH))]
    contents: Any = [[place.read() for _, place in data.pictures(batch)] for batch in rows]
    pair("reader", lambda: [data.pixels(batch) for batch in rows], lambda: bare_reader(contents))

    batches = [_entries(batch, found) for batch, found in zip(rows, contents, strict=True)]
    other = folder / "packed"
    other.mkdir()
    flat = (entry for entries in batches for entry in entries)
    pair("packing", lambda: packed(batches, other), lambda: bare_tar(flat, folder / "bare.tar"))


def _entries(rows: Sequence[int], contents: Sequence[bytes]) -> Entries:
    found = []
    for row, content in zip(rows, contents, strict=True):
        found += [(f"{row:08d}.json", b'{"image": "png"}'), (f"{row:08d}.png", content)]
    return found


def _row(samples: int, pairs: Sequence[tuple[float, float]]) -> dict[str, Any]:
    ours, bare = zip(*pairs, strict=True)
    return {
        "images/s": samples / float(np.median(ours)),
        "bare images/s": samples / float(np.median(bare)),
        "ratio": asdict(paired_ratio(bare, ours)),
    }


def memory(samples: int, folder: Path) -> dict[str, Memory]:
    """Of writing and of reading so many pictures."""

    def writing() -> Iterator[int]:
        yield from (event.done for event in synthesise(order(samples, 16), folder / "many"))

    def reading() -> Iterator[int]:
        data = ShardSet(ShardSetConfig(path=str(folder / "many")), 16)
        for start in range(0, samples, BATCH):
            data.pixels(range(start, min(start + BATCH, samples)))
            yield min(start + BATCH, samples)

    held = {"writing": Memory(samples), "reading": Memory(samples)}
    for (name, of), events in zip(held.items(), (writing, reading), strict=True):
        for done in followed(events(), -(-samples // BATCH), f"memory, {name}, batches"):
            of.take(done)
    return held


def tell(found: dict[str, Any], asked_for: dict[str, float]) -> bool:
    """Print all; whether nothing that is asked for is missed."""
    missed: list[Any] = [held for held in found["memory"].values() if not held.flat]
    for name, row in found["rates"].items():
        ratio, asked = Interval(**row["ratio"]), asked_for.get(name)
        told = f"{row['images/s']:.1f} images/s, bare {row['bare images/s']:.1f}"
        verdict = "" if asked is None else f"; asked for {asked}: {_verdict(ratio, asked)}"
        print(f"{name:8} {ratio.value:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]  {told}{verdict}")
        missed += [row] if asked is not None and ratio.high < asked else []
    for name, held in found["memory"].items():
        print(f"{name:8} {held.total} samples: {held}")
    return not missed


def _verdict(ratio: Interval, asked: float) -> str:
    if ratio.low >= asked:
        return "yes"
    return "NO" if ratio.high < asked else "undecided, more rounds would tell"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="small", help="small: under a minute; full: what is claimed")
    parser.add_argument("--json", type=Path, help="also write all numbers here, with the curves of the memory")
    options = parser.parse_args()
    torch.set_num_threads(1)
    size = SIZES[options.size]
    say(f"{options.size}: {size.rounds} rounds of {size.samples} pictures of {size.side} px; memory over {size.many}")
    with tempfile.TemporaryDirectory(prefix="bench-data-") as place:
        held = memory(size.many, Path(place))  # first, in a process that has held nothing large yet
        found = {"size": asdict(size), "memory": held, "rates": rates(size, Path(place))}
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, default=Memory.record) + "\n")
    sys.exit(0 if tell(found, {} if options.size == "tiny" else ASKED) else 1)


if __name__ == "__main__":
    main()
