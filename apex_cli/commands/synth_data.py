"""`apex synth-data`: a teacher draws a training set."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_cli.commands._options import checked, sampling
from apex_cli.commands._ui import Json, emit, say, stderr

if TYPE_CHECKING:
    from apex_cli.records import Progress


def synth_data(
    prompts: Annotated[
        str, typer.Option(help="A .txt, .jsonl, .csv or .parquet file of prompts, or shapes:SPLIT.")
    ] = "shapes:train",
    column: Annotated[
        str | None, typer.Option(help="Field of a table with the prompts.  [default: prompt, text or caption]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many prompts; of shapes:SPLIT as training draws.")
    ] = None,
    ckpt: Annotated[str, typer.Option(help="The teacher: a run, checkpoint, export, or assets:NAME.")] = (
        "assets:shapes_teacher"
    ),
    nfe: Annotated[
        int | None,
        typer.Option(help="Evaluations per image; 1 is without guidance.  [default: the checkpoint's]"),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="euler, heun or renoise.  [default: the checkpoint's]")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale, 1 for none.  [default: likewise]")] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Images per prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Sample k depends on (seed, k) alone.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward.")] = 16,
    shard_size: Annotated[int, typer.Option(min=1, help="Samples per shard.")] = 1000,
    image: Annotated[str, typer.Option(help="png, webp or jpg.")] = "png",
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of webp and jpg.")] = 95,
    latents: Annotated[bool, typer.Option("--latents", help="Also store the latent of each picture.")] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Worker I of N, from 1/N to N/N, on one storage.  [default: torchrun's rank]"),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the set.")] = Path("data/synth"),
    as_json: Json = False,
) -> None:
    """Draw a picture for every prompt and pack them as WebDataset shards. The same command again continues."""
    from apex_cli import build
    from apex_cli.data import prompt_files
    from apex_cli.data.synth import SynthConfig, synthesise

    part, parts = _part(shard)
    given = {"batch": batch, "shard_size": shard_size, "image": image, "quality": quality, "latents": latents}
    config = checked(SynthConfig, images_per_prompt=n, seed=seed, **given)
    texts, dropped = prompt_files.read(prompts, column, limit)
    model = build.ready(ckpt)
    cleaned = [build.read_prompt(model, text) for text in texts]
    if strange := sum(bool(unknown) for _, unknown in cleaned):
        say(f"Warning: {strange} prompts have words that this model does not know; they are left out.")
    settings = sampling(model.sample, nfe, sampler, guidance)
    order = build.order(model, settings, config, [text for text, _ in cleaned])
    left_out = f" ({dropped} empty or repeated lines left out)" if dropped else ""
    say(f"{len(order.prompts)} prompts{left_out} x {n} at {order.sample.nfe} NFE, {order.shard_count} shard(s): {out}")
    _follow(synthesise(order, out, part, parts), out)
    _report(out, as_json)


def _part(shard: str | None) -> tuple[int, int]:
    """Which worker this is, from 0, and how many there are."""
    from apex_cli.errors import UsageError

    if shard is None:
        return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    number, _, total = shard.partition("/")
    if not (number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise UsageError(f"--shard: '{shard}' is no worker.", "Write I/N with I from 1 to N, e.g. 3/16.")
    return int(number) - 1, int(total)


def _follow(events: Iterator[Progress], out: Path) -> None:
    """Draw the progress on stderr: images, images per second, time and disk left."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    live, began, since = stderr().is_terminal, time.perf_counter(), None
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=stderr(), transient=True, disable=not live) as bar:
        task = bar.add_task("", total=None)
        for event in events:
            since = event.done if since is None else since
            rate = (event.done - since) / (time.perf_counter() - began)
            free = shutil.disk_usage(out).free / 2**30
            told = f"{rate:.1f} images/s, {free:.0f} GiB free"
            bar.update(task, completed=event.done, total=event.total, description=told)
            if not live and event.done * 10 // event.total > (event.done - 1) * 10 // event.total:
                say(f"{event.done}/{event.total} images, {told}")


def _report(out: Path, as_json: bool) -> None:
    from apex_cli.data import shards

    manifest = out / shards.MANIFEST
    whole = manifest.is_file()
    facts = shards.read_manifest(out) if whole else {}
    if as_json:
        emit({"folder": str(out), "finished": whole, "samples": facts.get("samples"), "manifest": str(manifest)})
        return
    typer.echo(out)
    say(f"Finished: {facts['samples']} samples." if whole else "This worker is done; other shards are still missing.")
