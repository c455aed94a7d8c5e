"""Images to PNG files, written beside the drawing, with what they were made of in their metadata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from apex_cli.build import Model
    from apex_cli.generation import Sample


@dataclass(frozen=True)
class Saved:
    """A written image; `pixels` only where they are wanted again."""

    path: Path
    nfe: float
    pixels: np.ndarray | None


def save_all(made: Iterable[Sample], out: Path, model: Model, pixels: bool) -> list[Saved]:
    """Write every image as soon as it is finished; raises `StorageError` where `out` cannot hold one. `pixels`: they
    are wanted again."""
    from apex_cli.build.labels import label
    from apex_cli.data.ahead import ahead
    from apex_cli.streaming import Keeper

    keeper, saved = Keeper(out, partial(_save, label=label(model.source), about=_facts(model), keep=pixels)), []
    work = ahead(keeper, enumerate(made))
    for image in work:
        if keeper.failure is not None:
            break
        saved.append(image)
    work.close()  # waits for what is being written
    keeper.check()
    return saved


def _facts(model: Model) -> dict[str, str]:
    """What the metadata says of a model."""
    from apex_cli import __version__
    from apex_cli.backbones.folders import named

    return {
        "checkpoint": named(model.source),
        "recipe": str(model.contract["recipe"]),
        "software": f"apex {__version__}",
    }


def _save(numbered: tuple[int, Sample], folder: Path, label: str, about: dict[str, str], keep: bool) -> Saved:
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    number, image = numbered
    request = image.request
    own = {
        "prompt": request.prompt,
        "seed": str(request.seed),
        "index": str(request.index),
        "nfe": f"{image.nfe:g}",
    }
    info = PngInfo()
    for key, value in (own | about).items():
        info.add_itxt(key, value)
    slug = "-".join("".join(c if c.isalnum() else " " for c in request.prompt.lower()).split())[:60] or "empty"
    path = folder / f"{number:04d}-{slug}-s{request.seed}-{request.index}-nfe{image.nfe:g}-{label}.png"
    partial_path = folder / f".{path.name}.partial"
    try:
        Image.fromarray(image.pixels).save(partial_path, format="png", pnginfo=info)
        partial_path.replace(path)
    except OSError:
        partial_path.unlink(missing_ok=True)
        raise
    return Saved(path, image.nfe, image.pixels if keep else None)


def save_grid(columns: Sequence[Sequence[np.ndarray]], n: int, out: Path) -> Path:
    """One picture of all: a row for each prompt, the `n` images of every column side by side."""
    from apex_cli.generation.grid import grid_picture

    starts = range(0, len(columns[0]), n)
    rows = [[pixels for column in columns for pixels in column[i : i + n]] for i in starts]
    path = out / "grid.png"
    grid_picture(rows, zoom=2).save(path)
    return path
