"""`apex sample "a red cube"`: prompts to PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
    grid: Annotated[bool, typer.Option("--grid", help="Also write all images as one picture.")] = False,
    compare: Annotated[
        int | None, typer.Option(metavar="NFE", help="Draw the teacher at NFE beside, same seeds.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the images.")] = Path("samples"),
    as_json: Json = False,
) -> None:
    """Make images and print their paths. Prompt, seed, counted NFE and checkpoint stand in each PNG's metadata."""
    texts = _texts(prompts or [], prompt_file)
    from apex_cli import build
    from apex_cli.generation import Request

    out.mkdir(parents=True, exist_ok=True)
    model = build.ready(ckpt or build.SHIPPED_STUDENT)
    config = model.sample if nfe is None else model.sample.with_nfe(nfe)
    teacher = None if compare is None else build.load_teacher(model)
    cleaned = [build.read_prompt(model, text) for text in texts]
    for text, (_, unknown) in zip(texts, cleaned, strict=True):
        if unknown:
            say(f"Warning: this model does not know {', '.join(map(repr, unknown))} in '{text}'; left out.")
    requests = [Request(text, seed, k) for text, _ in cleaned for k in range(n)]
    images = _make(model, config, requests, batch)
    files = [str(_save(image, model, out, number)) for number, image in enumerate(images)]
    columns = [images]
    if teacher is not None and compare is not None:
        columns = [_make(teacher, teacher.sample.with_nfe(compare), requests, batch), images]
    picture = _grid(columns, n, out) if grid or teacher else None
    if as_json:
        rows = [
            {"file": file, "prompt": r.prompt, "seed": r.seed, "index": r.index, "nfe": i.nfe}
            for file, r, i in zip(files, requests, images, strict=True)
        ]
        emit({"checkpoint": str(model.source), "images": rows, "grid": picture and str(picture)})
        return
    for file in files:
        typer.echo(file)
    if picture:
        typer.echo(picture)
    beside = f"; left: teacher at {columns[0][0].nfe:g} NFE, right: student" if teacher else ""
    say(f"{len(files)} image(s) at {images[0].nfe:g} NFE (counted){beside}")


def _texts(prompts: list[str], prompt_file: Path | None) -> list[str]:
    from apex_cli.errors import DataError, UsageError

    if prompt_file is not None:
        if not prompt_file.is_file():
            raise DataError(f"The prompt file '{prompt_file}' does not exist.", "Give a text file, one prompt a line.")
        prompts = prompts + [line.strip() for line in prompt_file.read_text().splitlines() if line.strip()]
    if not prompts:
        raise UsageError("There is no prompt.", 'Try: apex sample "a red cube"')
    return prompts


def _make(model: Model, config: SampleConfig, requests: list[Request], batch: int) -> list[Sample]:
    from rich.progress import track

    from apex_cli.generation import generate

    made = generate(model.backbone, config, requests, batch)
    hidden = len(requests) == 1 or not stderr().is_terminal
    return list(track(made, f"{config.nfe} NFE", len(requests), console=stderr(), transient=True, disable=hidden))


def _save(image: Sample, model: Model, out: Path, number: int) -> Path:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    from apex_cli import __version__

    request = image.request
    facts = {
        "prompt": request.prompt,
        "seed": str(request.seed),
        "index": str(request.index),
        "nfe": f"{image.nfe:g}",
        "checkpoint": str(model.source),
        "recipe": str(model.contract["recipe"]),
        "software": f"apex {__version__}",
    }
    info = PngInfo()
    for key, value in facts.items():
        info.add_itxt(key, value)
    slug = "-".join("".join(c if c.isalnum() else " " for c in request.prompt.lower()).split())[:60] or "empty"
    path = out / f"{number:04d}-{slug}-s{request.seed}-{request.index}.png"
    Image.fromarray(image.pixels).save(path, pnginfo=info)
    return path


def _grid(columns: list[list[Sample]], n: int, out: Path) -> Path:
    from apex_cli.generation import grid_picture

    starts = range(0, len(columns[0]), n)
    rows = [[image.pixels for column in columns for image in column[i : i + n]] for i in starts]
    path = out / "grid.png"
    grid_picture(rows, zoom=2).save(path)
    return path
