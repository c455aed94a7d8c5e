"""What `apex bench` does once its options are read: measure, judge, show."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from apex_cli.commands._ui import emit, size, table
from apex_cli.errors import RegressionFound, UsageError

if TYPE_CHECKING:
    from apex_cli.benching.devices import Device
    from apex_cli.benching.verdict import Change
    from apex_cli.gpus import Gpu

LEAST = {"qwen-image": 512, "sana-600m": 512, "sana-1600m": 512}
"""Resolution of a published model unless another is asked for."""


@dataclass(frozen=True)
class Asked:
    """The options that say what is measured and on what."""

    model: str
    ckpt: str | None
    weights: str | None
    nfes: tuple[int, ...]
    batches: tuple[int, ...]
    resolutions: tuple[int, ...]
    modes: tuple[str, ...]
    gpu: str
    allow_mismatch: bool
    clock: str
    as_json: bool

    def device(self) -> tuple[Device, Gpu | None]:
        """The device that is here, and what it is judged by; raises `SetupError` where it is not the one wanted."""
        from apex_cli.benching import devices

        device = devices.found()
        return device, devices.demand(self.gpu, device, self.allow_mismatch)

    def subject(self) -> Any:
        from apex_cli.build import subjects

        return subjects.subject(self.model, self.ckpt, self.weights, self.modes, self.nfes)


def floors(
    model: str, nfes: Sequence[int], batches: Sequence[int], resolutions: Sequence[int], gpu: str, as_json: bool
) -> None:
    """`apex bench --analytic`."""
    from apex_cli import gpus
    from apex_cli.benching import tables
    from apex_cli.benching.judgement import LABEL, Yardsticks, analytic, counted
    from apex_cli.benching.run import Grid
    from apex_cli.build import subjects

    if gpu == "auto":
        raise UsageError("--analytic asks whose floors.", f"Add --gpu NAME: {', '.join(gpus.FAMILIES | gpus.GPUS)}.")
    row = gpus.find_any(gpu)
    if model not in LEAST:
        raise UsageError(f"'{model}' has no published sizes.", f"Add --model {', '.join(LEAST)}.")
    grid = Grid(nfe=tuple(nfes), batch=tuple(batches), resolution=tuple(resolutions) or (LEAST[model],))
    work = subjects.work(model, grid.resolution)
    found = analytic(Yardsticks(row, work), grid.cases(model))
    document = {"label": LABEL, "gpu": asdict(row), "counted": counted(work), "floors": found}
    if as_json:
        emit(document)
        return
    rate, speed = row.bf16 / 1e12, row.bandwidth / 1e12
    typer.echo(f"FLOORS, {LABEL}: {row.name}, {rate:g} TFLOP/s bf16, {speed:g} TB/s\n")
    table(tables.FLOOR_COLUMNS, tables.floor_rows(found))
    counts = [
        (
            f"{c['resolution']} px",
            c["variant"],
            c["stage"],
            f"{c['flops'] / 1e12:.4g}",
            f"{c['weight_bytes'] / 1e9:.3g}",
            str(c["kernels"]),
        )
        for c in document["counted"]
    ]
    typer.echo("")
    table(("of one picture", "variant", "stage", "TFLOP", "GB of weights", "kernels"), counts)
    _references(found)
    print(json.dumps(document))


def patience(runs: int, seconds: float, warmup: int) -> Any:
    from apex_cli.benching.measure import Patience

    return Patience(runs=runs, seconds=seconds, warmup=warmup)


def measure(
    asked: Asked, patience: Any, out: Path | None, save: Path | None, baseline: Path | None, judge: Sequence[str]
) -> None:
    """`apex bench`: measure a grid, show and keep it, and judge it by a baseline."""
    from apex_cli.benching import clocks, verdict
    from apex_cli.benching.run import Bench, Grid
    from apex_cli.commands._progress import show

    old = verdict.read(baseline) if baseline else None
    device, gpu = asked.device()
    subject = asked.subject()
    side = asked.resolutions or (subject.backbone.config.resolution,)
    grid = Grid(nfe=asked.nfes, batch=asked.batches, resolution=side, mode=asked.modes)
    bench = Bench(subject, grid, patience, device, clocks.clock(device.torch, asked.clock))
    show(bench.run())
    document = {**_document(bench, gpu), "clock": asked.clock}
    if save:
        verdict.save(document, save)
    if out:
        _write(document, out)
    changes = verdict.compare(document, old) if old else []
    document["changes"] = [{**asdict(change), "regressed": change.regressed} for change in changes]
    if asked.as_json:
        emit(document)
    else:
        _show(document)
        _show_changes(changes)
        if out:
            typer.echo("\n".join(str(out / f"bench.{kind}") for kind in ("json", "md", "csv", "png")))
        print(json.dumps(document))
    if failed := verdict.regressions(changes, judge):
        worst = max(failed, key=lambda change: change.change.value)
        told = f"{worst.key}: {worst.what} is {worst.change.value:.2f} times that of the baseline"
        raise RegressionFound(f"{told}.", f"{len(failed)} of {len(changes)} questions failed; see the table above.")


def _document(bench: Any, gpu: Gpu | None) -> dict[str, Any]:
    from apex_cli.benching.judgement import Yardsticks, judged
    from apex_cli.benching.verdict import SCHEMA
    from apex_cli.build import subjects

    subject = bench.subject
    work = subjects.work(subject.name, bench.grid.resolution) if gpu else {}
    return {
        "schema": SCHEMA,
        "model": subject.name,
        "weights": subject.weights,
        "parameters": subject.parameters,
        "load_seconds": subject.seconds,
        "device": bench.device.record(),
        "judged_by": gpu and gpu.name,
        "states": bench.states,
        "other_processes": sorted(bench.others),
        "cells": judged(bench.cells, Yardsticks(gpu, work)),
    }


def _write(document: Mapping[str, Any], out: Path) -> None:
    from apex_cli.benching import chart, tables, verdict

    out.mkdir(parents=True, exist_ok=True)
    cells = document["cells"]
    verdict.save(document, out / "bench.json")
    title = f"{document['model']} on {document['device']['identity']}"
    columns, stages = tables.stage_rows(cells)
    parts = [f"# {title}", tables.markdown(tables.COLUMNS, tables.rows(cells)), tables.markdown(columns, stages)]
    (out / "bench.md").write_text("\n".join(parts), encoding="utf-8")
    tables.write_csv(cells, out / "bench.csv")
    chart.draw(cells, title, out / "bench.png")


def _show(document: Mapping[str, Any]) -> None:
    from apex_cli.benching import tables

    cells, device = document["cells"], document["device"]
    judged = f"judged by the data sheet of {document['judged_by']}" if document["judged_by"] else "no floors"
    software = ", ".join(f"{name} {version}" for name, version in device["software"].items())
    typer.echo(f"{document['model']}, weights {document['weights']}, on {device['identity']} ({judged})\n{software}\n")
    table(tables.COLUMNS, tables.rows(cells))
    typer.echo("")
    table(*tables.stage_rows(cells))
    typer.echo("")
    table(("case", "mode", "cold request", "warm-up", "peak memory", "J/image", "prompt tokens"), _conditions(cells))
    _references(cells)
    for line in _remarks(document):
        typer.echo(f"* {line}")


def _conditions(cells: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    from apex_cli.benching import tables

    return [
        (
            tables.case(c),
            tables.mode(c),
            tables.duration(c["first_request"]),
            f"{c['warmup']['runs']} runs, {'agreed' if c['warmup']['stable'] else 'did not agree'}",
            ", ".join(f"{name} {size(count)}" for name, count in c["memory"].items()),
            "-" if c["joules_per_image"] is None else f"{c['joules_per_image']:.3g}",
            str(c["tokens"]),
        )
        for c in cells
    ]


def _references(cells: Sequence[Mapping[str, Any]]) -> None:
    from apex_cli.benching import tables

    if rows := tables.reference_rows(cells):
        typer.echo("")
        table(("published figures for", "method", "seconds", "resolution", "verdict", "source"), rows)
        for name, text in dict.fromkeys((r["source"], r["source_text"]) for cell in cells for r in cell["references"]):
            typer.echo(f"* {name}: {text}")


def _remarks(document: Mapping[str, Any]) -> Iterator[str]:
    from apex_cli.benching.cells import BEARABLE, LOSSY

    worst = max((cell["overhead"] for cell in document["cells"]), key=lambda overhead: overhead["share"])
    yield "total: from prompts to pictures in memory; the encoding to PNG comes after it"
    if lossy := {cell["mode"] for cell in document["cells"]} & LOSSY.keys():
        yield f"{', '.join(lossy)} is LOSSY: dB are the PSNR of a request's pictures against those of the exact way"
    if document["clock"] == "cpu":
        yield "seconds are those that the process computed, not those of the wall"
    much = f", more than {BEARABLE:.0%}: do not trust the shortest times" if worst["share"] > BEARABLE else ""
    told = "{share:.2%} [{low:.2%}, {high:.2%}]".format(**worst)
    yield f"overhead: the harness adds {told} at most to a loop that only asks{much}"
    yield f"loading took {document['load_seconds']:.1f} s, libraries included"
    throttled = sorted({reason for state in document["states"] for reason in state["throttled"]})
    if document["states"]:
        clocks = [state["sm_clock"] for state in document["states"]]
        yield f"SM clock {min(clocks)} to {max(clocks)} MHz; throttled: {', '.join(throttled) or 'no'}"
    if document["other_processes"]:
        others = ", ".join(map(str, document["other_processes"]))
        yield f"other processes used the GPU meanwhile: {others}"


def _show_changes(changes: Sequence[Change]) -> None:
    if changes:
        typer.echo("")
        rows = [
            (
                c.key,
                c.what,
                f"{c.change.value:.3f} [{c.change.low:.3f}, {c.change.high:.3f}]",
                "REGRESSED" * c.regressed,
            )
            for c in changes
        ]
        table(("against the baseline", "what", "new / old [95 %]", ""), rows)


def long(asked: Asked, count: int, out: Path | None) -> None:
    """`apex bench --images N --out FOLDER`."""
    from apex_cli.benching import clocks
    from apex_cli.benching.long import LongRun, missing, produce, writer
    from apex_cli.benching.run import png
    from apex_cli.commands._progress import show
    from apex_cli.streaming import Keeper

    if out is None:
        raise UsageError("--images needs a folder.", "Add --out FOLDER.")
    device, _ = asked.device()
    wanted = missing(out, count)
    subject = asked.subject()
    run = LongRun(str(out), count, count - len(wanted))
    draw = partial(subject.draw, asked.modes[0], asked.nfes[0], max(asked.batches))
    show(produce(draw, wanted, Keeper(out, writer(png)), run, clocks.clock(device.torch, asked.clock)))
    document = {"model": subject.name, "mode": asked.modes[0], "device": device.record(), **run.record()}
    if asked.as_json:
        emit(document)
        return
    typer.echo(f"{run.pictures - run.found} pictures in {run.seconds:.1f} s, {run.images_per_second:.1f} a second")
    if run.memory.curve:
        typer.echo(f"memory: {run.memory}")
    print(json.dumps(document))


def train(recipe: str, overrides: Sequence[str], runs: int, clock: str, as_json: bool) -> None:
    """`apex bench train RECIPE`."""
    import torch

    from apex_cli import recipe as recipes
    from apex_cli.benching import clocks, devices, tables
    from apex_cli.benching.statistics import paired_ratio, spread
    from apex_cli.benching.steps import measure as measure_steps
    from apex_cli.build import subjects
    from apex_cli.commands._progress import show

    read = recipes.load(recipe, overrides)
    device = devices.found()
    taken: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = subjects.steps(read, Path(folder))
        show(measure_steps(made, clocks.clock(device.torch, clock), runs, taken))
    own, plain = taken
    ratio = paired_ratio(taken[own], taken[plain])
    flops = {name: subjects.step_flops(changed) for name, changed in ((own, read), (plain, subjects.plain(read)))}
    document = {
        "recipe": read.name,
        "device": device.record(),
        "clock": clock,
        "batch": read.train.batch,
        "threads": torch.get_num_threads(),
        "steps": {
            name: {"seconds": asdict(spread(times)), "flops": flops[name], "times": times}
            for name, times in taken.items()
        },
        "ratio": asdict(ratio),
        "flops_ratio": flops[own] / flops[plain],
    }
    if as_json:
        emit(document)
        return
    rows = [
        (
            name,
            "{} [{}, {}]".format(*(tables.duration(v) for v in asdict(spread(times).median).values())),
            f"{read.train.batch / spread(times).median.value:.3g}",
            f"{flops[name]:.3e}",
            str(len(times)),
        )
        for name, times in taken.items()
    ]
    table((f"step of {read.train.batch}", "median [95 %]", "samples/s", "FLOPs", "n"), rows)
    typer.echo(f"time {tables.interval(asdict(ratio))} x plain flow matching, FLOPs {document['flops_ratio']:.3f} x")
    print(json.dumps(document))
