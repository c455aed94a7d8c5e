"""ShareGPT-4o-Image as it is published: `text_to_image.json` beside `text_to_image_part_N.tar`.

The JSON is a list of {"input_prompt": ..., "output_image": ...}, the latter the name of a picture in one of the tars.
Any of the tars will do. The other half of the data set, which edits pictures, is no text-to-image data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from apex_cli.data.picture_data import PictureConfig, files
from apex_cli.data.webdataset import Sample, WebDataset, samples
from apex_cli.errors import DataError

LIST, TARS = "text_to_image.json", "text_to_image_part_*.tar"


class ShareGpt4oImageConfig(PictureConfig):
    path: str = Field(min_length=1)
    """The folder with the files of the data set."""


class ShareGpt4oImage(WebDataset):
    """The text-to-image half: the pictures of the tars, the captions of the list."""

    Config = ShareGpt4oImageConfig

    def _samples(self, config: Any) -> Iterator[tuple[Sample, Any]]:
        folder = Path(config.path).expanduser()
        captions = _listed(folder / LIST)
        for shard in files(str(folder / TARS), ".tar"):
            yield from ((one, captions.get(_name(one.member))) for one in samples(shard) if one.member)


def _listed(file: Path) -> dict[str, str]:
    """Name of a picture -> caption."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {_name(row["output_image"]): row["input_prompt"] for row in rows}
    except FileNotFoundError as error:
        raise DataError(f"There is no file '{file}'.", "Download it with the tars, into one folder.") from error
    except (ValueError, KeyError, TypeError) as error:
        told = f"'{file}' is no list of rows with input_prompt and output_image."
        raise DataError(told, "Download it again.") from error


def _name(path: str) -> str:
    return path.removeprefix("./")
