"""Writer and reader of shards as ratios, each against the least that could do it, in alternating runs of one process.

Writer: `synthesise` with a teacher that costs next to nothing, against the same pictures compressed one after another
into one tar. Reader: `ShardSet.pixels` in shuffled batches, against `crops` of the same files already in memory.
Memory: resident bytes after a tenth of the samples and the most after that, for writing and for reading.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from apex_cli.data.pictures import crops
from apex_cli.data.shard_set import ShardSet, ShardSetConfig
from apex_cli.data.synth import Order, SynthConfig, synthesise
from apex_cli.flow.condition import Cond
from apex_cli.generation import SampleConfig, generate

BATCH = 16
EXPECTED = {"writer": 0.5, "reader": 0.8}
"""Ratios that are asked for."""
FLAT = 1.1
"""Memory is flat where it never grows beyond so much of what it was after a tenth of the samples."""


class Painter:
    """A backbone that draws smooth noise in no time: one evaluation is the noise itself."""

    latent_shape, patch = (3, 8, 8), 1

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
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for shard in range(what.shard_count):
            for job in what.jobs(shard):
                for made in generate(what.backbone, what.sample, job.requests, BATCH):
                    sink = io.BytesIO()
                    Image.fromarray(made.pixels).save(sink, "png")
                    row = json.dumps({"prompt": made.request.prompt, "index": made.request.index}).encode()
                    for suffix, content in (("json", row), ("png", sink.getvalue())):
                        entry = tarfile.TarInfo(f"{made.request.index:08d}.{suffix}")
                        entry.size = len(content)
                        tar.addfile(entry, io.BytesIO(content))


def seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def rates(samples: int, side: int, repeats: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Images per second of ours and of the bare way, medians of alternating runs after one that is not counted."""
    what, times = order(samples, side), {name: [] for name in ("writer", "bare writer", "reader", "decoder")}
    for n in range(repeats + 1):
        place = folder / f"set-{n}"
        times["bare writer"].append(seconds(lambda: bare_writer(what, folder / "bare.tar")))
        times["writer"].append(seconds(lambda place=place: list(synthesise(what, place))))
        data = ShardSet(ShardSetConfig(path=str(place)), side)
        batches = np.array_split(np.random.default_rng(n).permutation(samples), -(-samples // BATCH))
        contents = [[(name, place.read()) for name, place in data.pictures(batch.tolist())] for batch in batches]
        times["decoder"].append(seconds(lambda contents=contents: [crops(batch, (side, side)) for batch in contents]))
        times["reader"].append(
            seconds(lambda data=data, batches=batches: [data.pixels(batch.tolist()) for batch in batches])
        )
    rate = {name: samples / statistics.median(values[1:]) for name, values in times.items()}
    return {
        name: {"images/s": rate[name], "bare images/s": rate[bare], "ratio": rate[name] / rate[bare]}
        for name, bare in (("writer", "bare writer"), ("reader", "decoder"))
    }


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(samples: int, folder: Path) -> dict[str, dict[str, Any]]:
    """Of writing and reading so many pictures of 16 px."""

    def writing() -> Iterator[int]:
        yield from (event.done for event in synthesise(order(samples, 16), folder / "many"))

    def reading() -> Iterator[int]:
        data = ShardSet(ShardSetConfig(path=str(folder / "many")), 16)
        for start in range(0, samples, BATCH):
            data.pixels(range(start, min(start + BATCH, samples)))
            yield start + BATCH

    return {name: _growth(events(), samples) for name, events in {"writing": writing, "reading": reading}.items()}


def _growth(events: Iterator[int], samples: int) -> dict[str, Any]:
    early = most = 0
    for done in events:
        if done <= samples / 10:
            early = resident()
        most = max(most, resident())
    return {"bytes after a tenth": early, "most bytes": most, "growth": most / early, "flat": most <= FLAT * early}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--memory-samples", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-data-") as place:
        found = {
            "asked": {name: value for name, value in vars(options).items() if name != "json"},
            "memory": memory(
                options.memory_samples, Path(place)
            ),  # first, in a process that has held nothing large yet
            "rates": rates(options.samples, options.side, options.repeats, Path(place)),
        }
    for name, row in found["rates"].items():
        told = "  ".join(f"{key} {value:.2f}" for key, value in row.items())
        print(f"{name:8} {told}  (asked for: {EXPECTED[name]})")
    for name, row in found["memory"].items():
        early, most = (row[key] / 2**20 for key in ("bytes after a tenth", "most bytes"))
        told = f"{early:.0f} MiB after a tenth, {most:.0f} MiB at most"
        print(f"{name:8} {options.memory_samples} samples: {told}, {'flat' if row['flat'] else 'GROWS'}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
