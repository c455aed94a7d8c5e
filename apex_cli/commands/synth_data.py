"""`apex synth-data [RECIPE]`: a teacher draws a training set."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_cli.commands._ui import Json, Overrides, emit, say, stderr

if TYPE_CHECKING:
    from apex_cli.drafts import Flag
    from apex_cli.records import Progress


def synth_data(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe file, or the name of a shipped one.  [default: the shapes teacher]")
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    prompts: Annotated[
        str | None,
        typer.Option(
            help="A .txt, .jsonl, .csv or .parquet file of prompts, shapes:SPLIT, posters:SEED or hub:OWNER/NAME."
        ),
    ] = None,
    column: Annotated[
        str | None, typer.Option(help="Field of a table with the prompts.  [default: prompt, text or caption]")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only the first so many prompts.")] = None,
    held_out: Annotated[
        list[str] | None,
        typer.Option(help="Leave out what repeats, resembles or contains these: geneval, or a source like --prompts."),
    ] = None,
    report_prompts: Annotated[
        bool, typer.Option("--report-prompts", help="Only tell of the prompts: lengths, scripts, contamination.")
    ] = False,
    ckpt: Annotated[
        str | None,
        typer.Option(help="The teacher: a run, checkpoint, export, or assets:NAME.  [default: the recipe's]"),
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(help="Evaluations per image; 1 is without guidance.  [default: the recipe's or checkpoint's]"),
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="euler, heun or renoise.  [default: likewise]")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale, 1 for none.  [default: likewise]")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Images per prompt.  [default: 1]")] = None,
    best_of: Annotated[
        int | None, typer.Option(help="Draw so many for each prompt and keep the best --n by --scorer.")
    ] = None,
    scorer: Annotated[str | None, typer.Option(help="shapes or clip; scores are stored with the samples.")] = None,
    seed: Annotated[int | None, typer.Option(help="Image k depends on (seed, k) alone.  [default: 0]")] = None,
    batch: Annotated[int | None, typer.Option(help="Images per forward.  [default: 16]")] = None,
    shard_size: Annotated[int | None, typer.Option(help="Samples per shard.  [default: 1000]")] = None,
    image: Annotated[str | None, typer.Option(help="png, webp or jpg.  [default: png]")] = None,
    quality: Annotated[int | None, typer.Option(help="Of webp and jpg.  [default: 95]")] = None,
    store: Annotated[
        str | None, typer.Option(metavar="LIST", help="Also keep latents, noise or text, e.g. latents,noise,text.")
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Worker I of N, from 1/N to N/N, on one storage.  [default: torchrun's rank]"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the set.  [default: data/NAME of the recipe]")] = None,
    as_json: Json = False,
) -> None:
    """Draw pictures for prompts and pack them as WebDataset shards. The same command again continues."""
    from apex_cli import build
    from apex_cli import recipe as recipes
    from apex_cli.data.prompt_sources import gather

    part, parts = _part(shard)
    flags = _flags(
        {
            "--prompts prompts.sources": prompts and [{"source": prompts}],
            "--column prompts.column": column,
            "--limit prompts.limit": limit,
            "--held-out prompts.held_out": held_out,
            "--ckpt teacher.ckpt": ckpt,
            "--n synth.images_per_prompt": n,
            "--best-of synth.best_of": best_of,
            "--scorer scorer.name": scorer,
            "--seed synth.seed": seed,
            "--batch synth.batch": batch,
            "--shard-size synth.shard_size": shard_size,
            "--image synth.image": image,
            "--quality synth.quality": quality,
            "--store synth.store": store and store.split(","),
        }
    )
    read = recipes.load_synth(recipe, [*overrides, *flags])
    found = gather(read.prompts, build.benchmarks(read.prompts.held_out), count_near=report_prompts)
    if report_prompts:
        from apex_cli.commands._prompts import show_prompts

        show_prompts(found, as_json)
        return
    folder = out or Path("data") / read.name
    model = build.painter(read)
    cleaned = [build.read_prompt(model, text) for text in found.texts]
    if strange := sum(bool(unknown) for _, unknown in cleaned):
        say(f"Warning: {strange} prompts have words that this model does not know; those words are left out.")
    settings = (read.sample or model.sample).changed(nfe, sampler, guidance)
    order = build.order(read, model, settings, [text for text, _ in cleaned])
    left_out = f" ({found.repeated} empty or repeated lines left out)" if found.repeated else ""
    told = f"{len(order.prompts)} prompts{left_out} x {read.synth.images_per_prompt} at {settings.nfe} NFE"
    say(f"{told}, {order.shard_count} shard(s): {folder}")
    from apex_cli.data.synth import synthesise

    _follow(synthesise(order, folder, part, parts), folder)
    _report(folder, as_json)


def _flags(given: dict[str, Any]) -> list[Flag]:
    """What stands on the command line, as values over the recipe."""
    from apex_cli.drafts import Flag

    named = ((*name.split(), value) for name, value in given.items() if value is not None)
    return [Flag(flag, key, value) for flag, key, value in named]


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

    live, began, since, tenths = stderr().is_terminal, time.perf_counter(), None, 0
    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=stderr(), transient=True, disable=not live) as bar:
        task = bar.add_task("", total=None)
        for event in events:
            since = event.done if since is None else since
            rate = (event.done - since) / (time.perf_counter() - began)
            free = shutil.disk_usage(out).free / 2**30
            told = f"{rate:.1f} images/s, {free:.0f} GiB free"
            bar.update(task, completed=event.done, total=event.total, description=told)
            if not live and event.done * 10 // event.total > tenths:
                tenths = event.done * 10 // event.total
                left = f", {(event.total - event.done) / rate:.0f} s left" if rate else ""
                say(f"{event.done}/{event.total} images, {told}{left}")


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
