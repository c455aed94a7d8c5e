"""Optimizer steps of Qwen-Image LoRA through the real training loop, on random non-zero weights, each beside its plan.

Full size: the transformer as published (20.4 B parameters, bf16, no text encoder, no autoencoder), rank 64, 512 px,
random prompt embeddings of 128 tokens. It needs a CUDA GPU of 80 GB or more, and no weights. This size has not been
run yet: no such GPU was at hand. `--tiny` runs the same code on a tiny transformer, also on a CPU.

MFU counts the FLOPs of a step without gradient checkpointing, whatever is computed again, over the peak rate of `--gpu`
or, without it, over the rate of a bf16 matrix product measured in this run. The last line is the whole result as JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

from apex_cli import build, gpus
from apex_cli.backbones.published import default_dtype
from apex_cli.backbones.qwen_image import QwenImage, QwenImageConfig
from apex_cli.flow.condition import Cond
from apex_cli.generation import SampleConfig
from apex_cli.recipe import Choice
from apex_cli.registry import resolve
from apex_cli.training.cost import Bench
from apex_cli.training.loop import Job
from apex_cli.training.memory import of_run
from apex_cli.training.plan import matmul_rate
from apex_cli.training.settings import LoraSettings, TrainConfig
from apex_cli.training.steps import Steps

KINDS: dict[str, dict[str, Any]] = {
    "fm": {"name": "fm"},
    "apex eq25": {"name": "apex", "lambda_g": 0},
    "apex base": {"name": "apex", "real": "base"},
}
"""Plain flow matching, the paper's step as written, and ours with the match term."""


@dataclass(frozen=True)
class Size:
    """`network`: what differs from the published configuration, which is the default of the class."""

    network: dict[str, Any] = field(default_factory=dict)
    resolution: int = 512
    tokens: int = 128
    rank: int = 64


TINY = Size(
    {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 32, "joint_attention_dim": 64,
     "axes_dims_rope": (8, 12, 12)},
    resolution=64, tokens=8, rank=4,
)  # fmt: skip


IDENTITY: dict[str, Any] = {"data": "captions", "backbone": {"name": "qwen_image", "config": {}}}


class Headless(QwenImage):
    """Qwen-Image without text encoder and autoencoder: random bf16 weights, random embeddings for any prompt."""

    def __init__(self, size: Size, device: str):
        self.size, self.device = size, device
        super().__init__(QwenImageConfig(resolution=size.resolution))

    def fresh(self, tiny: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        from diffusers import QwenImagePipeline, QwenImageTransformer2DModel

        with torch.device(self.device), default_dtype(torch.bfloat16), torch.no_grad():
            network = QwenImageTransformer2DModel(**self.size.network)
            for value in network.parameters():
                value.normal_(std=0.02)
        rest: dict[str, Any] = dict.fromkeys(("scheduler", "vae", "text_encoder", "tokenizer"))
        return QwenImagePipeline(transformer=network, **rest)

    def dimensions(self) -> tuple[int, int, int]:
        facts = self.network.config
        return facts.in_channels // 4, 8, facts.joint_attention_dim

    def encode_prompts(self, prompts: Sequence[str]) -> Cond:
        shape, device = (len(prompts), self.size.tokens), self.network.device
        return Cond(torch.randn(*shape, self.cond_dim, device=device), torch.ones(shape, device=device) > 0)


class Captions:
    """As many rows as a step takes, each with a caption of its own."""

    def __init__(self, rows: int):
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [str(row) for row in rows]


def objective(kind: str, model: Headless) -> Any:
    settings = dict(KINDS[kind])
    name = settings.pop("name")
    return build.objective(Choice(name, resolve("objective", name).Config(**settings)), model)


def config(size: Size, micro_batch: int, checkpointing: bool) -> TrainConfig:
    return TrainConfig(
        steps=10**6, batch=micro_batch, tuning="lora", lora=LoraSettings(rank=size.rank), precision="bf16",
        gradient_checkpointing=float(checkpointing), telemetry_every=10**6,
    )  # fmt: skip


def planned(size: Size, kind: str, train: TrainConfig, on_gpu: bool) -> tuple[int, int]:
    """(FLOPs of a step, peak bytes) as `apex train --plan` counts them."""
    model = Headless(size, "meta")
    goal, data = objective(kind, model), Captions(train.batch)
    bench = Bench(model, goal, train, data.prompts(range(train.batch)), train.batch)
    cost = bench.cost(goal)
    return cost.total, of_run(bench, goal, data, cost, 1, on_gpu).peak


def seconds(trainer: Steps) -> float:
    synchronize()
    start = time.perf_counter()
    trainer.step()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measured(model: Headless, kind: str, train: TrainConfig, steps: int) -> tuple[list[float], int | None]:
    """(seconds of each step, peak bytes on a GPU); the step before them warms up and measures the telemetry."""
    with tempfile.TemporaryDirectory() as folder:
        data = Captions(train.batch)
        job = Job(
            model, objective(kind, model), data, train, SampleConfig(), Path(folder), recipe="", identity=IDENTITY
        )
        trainer = Steps(job)
        try:
            seconds(trainer)
            if torch.cuda.is_available():
                torch.cuda.reset_peak_memory_stats()
            taken = [seconds(trainer) for _ in range(steps)]
            return taken, torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        finally:
            model.network.unload_lora()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def row(model: Headless, kind: str, micro: int, options: argparse.Namespace, rate: float) -> dict[str, Any]:
    """One line of the table; without times where the step does not fit."""
    train = config(model.size, micro, options.checkpointing)
    done, peak = planned(model.size, kind, train, torch.cuda.is_available())
    useful = done if not options.checkpointing else planned(model.size, kind, config(model.size, micro, False), True)[0]
    found: dict[str, Any] = {"kind": kind, "micro_batch": micro, "flops": useful, "computed": done, "planned": peak}
    try:
        taken, found["peak"] = measured(model, kind, train, options.steps)
    except torch.OutOfMemoryError:
        return found
    step = statistics.median(taken)
    return found | {"seconds": step, "samples_per_second": micro / step, "mfu": useful / step / rate}


def show(found: dict[str, Any]) -> None:
    head = f"{'step':10} {'micro-batch':>11} {'TFLOP':>10} {'s / step':>9} {'samples/s':>9} {'MFU':>6}"
    print(f"{head} {'peak (planned) GB':>18}")
    for line in found["rows"]:
        times = "{seconds:9.3g} {samples_per_second:9.3g} {mfu:6.1%}" if "seconds" in line else "out of memory"
        peak = "-" if line.get("peak") is None else f"{line['peak'] / 1e9:.3g}"
        print(
            f"{line['kind']:10} {line['micro_batch']:11} {line['flops'] / 1e12:10.4g}", times.format(**line),
            f"{peak:>10} ({line['planned'] / 1e9:.3g})",
        )  # fmt: skip


def measure(options: argparse.Namespace) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = gpus.find(options.gpu).rate("bf16") if options.gpu else matmul_rate(torch.bfloat16)
    model = Headless(TINY if options.tiny else Size(), device)
    rows = [row(model, kind, micro, options, rate) for micro in options.micro_batch for kind in KINDS]
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__,
        "rate": rate,
        "rate_from": options.gpu or "a matrix product measured here",
        "checkpointing": options.checkpointing,
        "steps": options.steps,
        **asdict(model.size),
        "parameters": sum(p.numel() for p in model.network.parameters()),
        "rows": rows,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a tiny transformer, on whatever device there is")
    parser.add_argument("--gpu", help="whose peak rate MFU is counted by, e.g. h200-141gb")
    parser.add_argument("--micro-batch", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--steps", type=int, default=5, help="timed steps of each kind")
    parser.add_argument("--no-checkpointing", dest="checkpointing", action="store_false")
    options = parser.parse_args(argv)
    if not options.tiny and not torch.cuda.is_available():
        parser.error("the full size needs a CUDA GPU; --tiny runs anywhere")
    found = measure(options)
    show(found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
