"""`apex ckpt`: look into, check and export checkpoints."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from apex_cli.commands._ui import Json, emit, table

app = typer.Typer(help="List, verify and export checkpoints.", no_args_is_help=True, rich_markup_mode=None)

Run = Annotated[Path, typer.Argument(help="A run folder, or one of its step-* folders.")]


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


@app.command()
def ls(run: Run, as_json: Json = False) -> None:
    """List the finished checkpoints of a run."""
    from apex_cli.training import checkpoint

    folders = checkpoint.steps(run) or [checkpoint.find(run)]
    rows = [(str(folder), checkpoint.read_contract(folder)["step"]) for folder in folders]
    if as_json:
        emit([{"checkpoint": name, "step": step} for name, step in rows])
    else:
        table(("CHECKPOINT", "STEP"), rows)


@app.command()
def verify(run: Run) -> None:
    """Check every file against the manifest."""
    from apex_cli.training import checkpoint

    typer.echo(f"{checkpoint.find(run)}: complete and unaltered")


@app.command()
def export(
    run: Run,
    dest: Annotated[Path, typer.Argument(help="Folder to write.")],
    dtype: Annotated[Dtype, typer.Option(help="Number format of the weights.")] = Dtype.float32,
) -> None:
    """Write a pipeline folder that stock diffusers loads (LoRA fused, averaged weights if the run kept an average)."""
    from apex_cli import build
    from apex_cli.errors import StorageError

    if dest.exists():
        raise StorageError(f"'{dest}' exists already.", "Choose a new folder.")
    build.export(build.load_model(run), dest, dtype.value)
    typer.echo(dest)
