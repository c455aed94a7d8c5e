"""`apex sample "a red cube"`: prompts to PNG files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_cli.commands._images import save_all, save_grid
from apex_cli.commands._ui import Json, emit, say, stderr

if TYPE_CHECKING:
    from apex_cli.build import Model
    from apex_cli.generation import Request, Sample, SampleConfig


def sample(
    prompts: Annotated[list[str] | None, typer.Argument(help="One or more prompts.", show_default=False)] = None,
    prompt_file: Annotated[Path | None, typer.Option(help="Text file with one prompt a line.")] = None,
    ckpt: Annotated[
        str | None, typer.Option(help="Run, checkpoint, or assets:NAME.  [default: the shipped one-step student]")
    ] = None,
    nfe: Annotated[
        int | None,
        typer.Option(help="Evaluations per image; 1 is without guidance.  [default: the checkpoint's]"),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Images per prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Image k of a prompt depends on (seed, k) alone.")] = 0,
    batch: Annotated[int, typer.Option(min=1, help="Images per forward; does not change the images.")] = 16,
    grid: Annotated[bool, typer.Option("--grid", help="Also write all images as one picture, grid.png.")] = False,
    compare: Annotated[
        int | None, typer.Option(metavar="NFE", help="Draw the teacher at NFE beside, same seeds.")
    ] = None,
    fast: Annotated[
        bool | None,
        typer.Option(
            "--fast/--plain",
            help="Draw with the folded model and all stages at once; the same images.  [default: fast on CUDA]",
        ),
    ] = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the blocks first: a minute that pays for many images.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("samples"),
    as_json: Json = False,
) -> None:
    """Make images and print their paths. Prompt, seed, counted NFE and checkpoint stand in the names and metadata.

    The same command again writes the same files."""
    texts = _texts(prompts or [], prompt_file)
    from apex_cli import build
    from apex_cli.build import fast as twins
    from apex_cli.generation import Request

    out.mkdir(parents=True, exist_ok=True)
    source = ckpt or build.SHIPPED_STUDENT
    fast = twins.wanted(source, fast, compiled)
    model = twins.ready(source, [nfe] if nfe else [], compiled) if fast else build.ready(source)
    config = model.sample if nfe is None else model.sample.with_nfe(nfe)
    teacher = None if compare is None else build.load_teacher(model)
    cleaned = [build.read_prompt(model, text) for text in texts]
    for text, (_, unknown) in zip(texts, cleaned, strict=True):
        if unknown:
            say(f"Warning: this model does not know {', '.join(map(repr, unknown))} in '{text}'; left out.")
    requests = [Request(text, seed, k) for text, _ in cleaned for k in range(n)]
    made = _track(model, config, requests, batch, fast)
    saved = save_all(made, out, model, pixels=grid or teacher is not None)
    columns = [[image.pixels for image in saved if image.pixels is not None]]
    beside = ""
    if teacher is not None and compare is not None:
        drawn = list(_track(teacher, teacher.sample.with_nfe(compare), requests, batch, False))
        columns = [[image.pixels for image in drawn], *columns]
        beside = f"; left: teacher at {drawn[0].nfe:g} NFE, right: student"
    picture = save_grid(columns, n, out) if grid or teacher else None
    if as_json:
        rows = [
            {"file": str(image.path), "prompt": r.prompt, "seed": r.seed, "index": r.index, "nfe": image.nfe}
            for image, r in zip(saved, requests, strict=True)
        ]
        emit({"checkpoint": str(model.source), "images": rows, "grid": picture and str(picture)})
        return
    for image in saved:
        typer.echo(image.path)
    if picture:
        typer.echo(picture)
    say(f"{len(saved)} image(s) at {saved[0].nfe:g} NFE (counted){beside}")


def _texts(prompts: list[str], prompt_file: Path | None) -> list[str]:
    from apex_cli.errors import DataError, UsageError

    if prompt_file is not None:
        if not prompt_file.is_file():
            raise DataError(f"The prompt file '{prompt_file}' does not exist.", "Give a text file, one prompt a line.")
        prompts = prompts + [line.strip() for line in prompt_file.read_text().splitlines() if line.strip()]
    if not prompts:
        raise UsageError("There is no prompt.", 'Try: apex sample "a red cube"')
    return prompts


def _track(model: Model, config: SampleConfig, requests: list[Request], batch: int, fast: bool) -> Iterable[Sample]:
    from rich.progress import track

    from apex_cli.generation import generate
    from apex_cli.streaming import stream

    made = (stream if fast else generate)(model.backbone, config, requests, batch)
    hidden = len(requests) == 1 or not stderr().is_terminal
    return track(made, f"{config.nfe} NFE", len(requests), console=stderr(), transient=True, disable=hidden)
