"""`apex ckpt`: look into, check and export checkpoints."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from apex_cli.commands._ui import Json, emit, say, table

app = typer.Typer(help="List, verify, fold and export checkpoints.", no_args_is_help=True, rich_markup_mode=None)

Run = Annotated[Path, typer.Argument(help="A run folder, or one of its step-* folders.")]


class Dtype(StrEnum):
    float32 = "float32"
    float16 = "float16"
    bfloat16 = "bfloat16"


class Form(StrEnum):
    merged = "merged"
    diffusers = "diffusers"
    comfyui = "comfyui"


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
def verify(run: Run, as_json: Json = False) -> None:
    """Check every file against the manifest; exit 8 where one is missing or altered."""
    from apex_cli.training import checkpoint

    folder = checkpoint.find(run)
    if as_json:
        emit({"checkpoint": str(folder), "unaltered": True})
    else:
        typer.echo(f"{folder}: complete and unaltered")


@app.command()
def fold(
    run: Run,
    dest: Annotated[Path, typer.Argument(help="Folder to write.")],
    nfe: Annotated[
        list[int] | None,
        typer.Option("--nfe", min=1, help="Also fold for this number of evaluations; may be repeated.", metavar="N"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write the fast model of a run for `apex sample --ckpt`, and prove that it draws what the run draws.

    What depends on the noise level alone is computed once and its weights are left out, so that the folder draws at
    these noise levels only.
    """
    from apex_cli.build import fast as twins
    from apex_cli.errors import StorageError

    if dest.exists():
        raise StorageError(f"'{dest}' exists already.", "Choose a new folder.")
    twin, difference = twins.fold(run, dest, nfe or [])
    times, foldings = list(twin.backbone.times or []), list(twin.backbone.folded)
    if as_json:
        emit({"folded": str(dest), "foldings": foldings, "times": times, "difference": difference})
        return
    at = f" at the noise levels {', '.join(f'{t:g}' for t in times)}" if times else ""
    say(f"Folded {', '.join(foldings)}{at}. Read back: the picture differs from the run's by at most {difference:.1e}.")
    typer.echo(dest)


@app.command()
def export(
    run: Run,
    dest: Annotated[Path, typer.Argument(help="Folder to write.")],
    form: Annotated[
        Form,
        typer.Option(
            "--to",
            help="merged: a whole pipeline folder, LoRA fused. diffusers: only what was trained, a LoRA file for "
            "load_lora_weights (a base that is on no hub comes along) or component folders (which need a base on the "
            "hub, or --base). comfyui: one LoRA file.",
        ),
    ] = Form.merged,
    dtype: Annotated[Dtype, typer.Option(help="Number format of the weights.")] = Dtype.float32,
    base: Annotated[
        str | None, typer.Option(help="Hub id or folder of the base, if not what the run started from.")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="REPO_ID", help="Upload the export to this hub repository.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run for other software, with a model card, and prove that it draws what the run draws."""
    from apex_cli import build
    from apex_cli.errors import StorageError
    from apex_cli.exporting import push as hub
    from apex_cli.exporting.export import Wanted

    if dest.exists():
        raise StorageError(f"'{dest}' exists already.", "Choose a new folder.")
    if push is not None:
        hub.check(push)
    proof = build.export(run, dest, Wanted(form.value, dtype.value, base, push))
    what = "the weight updates differ" if form is Form.comfyui else "the picture differs"
    say(f"Read back: {what} from the run's by at most {proof.difference:.1e}.")
    if proof.call is not None:
        say(f"The call in {dest / 'README.md'}: by at most {proof.call:.1e}.")
    address = None if push is None else hub.push(dest, push)
    if as_json:
        emit(
            {"export": str(dest), "to": form.value, "difference": proof.difference, "call": proof.call, "hub": address}
        )
    else:
        typer.echo(address or dest)
