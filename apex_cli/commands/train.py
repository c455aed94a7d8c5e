"""`apex train RECIPE`: train, or continue, a run."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_cli.commands._ui import Json, Overrides, emit, say
from apex_cli.errors import UsageError

if TYPE_CHECKING:
    from apex_cli.recipe import Recipe

_HOW = "Add --plan; to train on N ranks: torchrun --nproc_per_node N -m apex_cli.app train RECIPE"


def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (`apex recipes ls`).")],
    overrides: Overrides = [],  # noqa: B006
    out: Annotated[Path | None, typer.Option(help="Run folder.  [default: runs/NAME]")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Only tell what the run needs: FLOPs, memory, disk, time. Loads no weights.")
    ] = False,
    gpus: Annotated[int, typer.Option(min=1, help="Ranks to plan for; with --plan.")] = 1,
    gpu: Annotated[
        str | None, typer.Option(metavar="NAME", help="GPU to plan for, e.g. a100-80gb.  [default: this machine]")
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="Find the smallest change that fits, e.g. 24GB; with --plan."),
    ] = None,
    mfu: Annotated[
        float, typer.Option(min=0.001, max=1, help="Share of the peak rate that a step reaches; with --plan.")
    ] = 0.35,
    as_json: Json = False,
) -> None:
    """Train a model by a recipe. The same command again continues where the last checkpoint stands."""
    from apex_cli import recipe as recipes
    from apex_cli.records import METRICS, read_metrics
    from apex_cli.training import checkpoint, runs

    read = recipes.load(recipe, overrides)
    if plan:
        from apex_cli.commands._plan import show_plan

        show_plan(read, gpus, mfu, gpu, fit, as_json)
        return
    if gpu or fit or gpus > 1:
        raise UsageError("--gpus, --gpu and --fit plan a run; they do not start it.", _HOW)
    folder = out or Path(recipes.RUNS) / read.name
    with runs.opened(folder, read.to_toml()):
        done = checkpoint.last_step(folder) >= read.train.steps
        if runs.is_main():
            say(f"Run folder: {folder}")
        if done:
            _finished(folder)
        else:
            _run(read, folder)
    if not runs.is_main():
        return
    if as_json:
        losses = [record["loss"] for record in read_metrics(folder / METRICS)]
        emit({"run": str(folder), "step": read.train.steps, "loss": losses[-1] if losses else None})
    else:
        typer.echo(folder)


def _finished(folder: Path) -> None:
    """A run that is complete: no model is loaded. Its page is written again, which a kill may have kept it from."""
    from apex_cli.training import checkpoint, page, runs

    if not runs.is_main():
        return
    say(f"Already complete: {checkpoint.step_of(checkpoint.find(folder))} steps.")
    page.write_page(folder)
    say(f"Page: {folder / 'index.html'}")


def _run(recipe: Recipe, folder: Path) -> None:
    """Train from the newest checkpoint, or from the start."""
    from apex_cli import build
    from apex_cli.commands._progress import show
    from apex_cli.training import runs
    from apex_cli.training.loop import Trainer

    job = build.job(recipe, folder)
    if not runs.is_main():
        deque(Trainer(job).run(), maxlen=0)
        return
    for warning in job.warnings:
        say(f"Warning: {warning}")
    show(Trainer(replace(job, tell=say)).run())
    say(f"Page: {folder / 'index.html'}")
