"""ShareGPT-4o-Image as it is published: `text_to_image.json` beside `text_to_image_part_N.tar`.

The JSON is a list of {"input_prompt": ..., "output_image": ...}, the latter the name of a picture in one of the tars.
Any of the tars will do. The other half of the data set, which edits pictures, is no text-to-image data.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from apex_cli.data import tars
from apex_cli.data.flaws import Flaw
from apex_cli.data.members import Members, worded
from apex_cli.data.picture_data import PictureConfig, files
from apex_cli.data.webdataset import WebDataset
from apex_cli.errors import DataError

LIST, TARS = "text_to_image.json", "text_to_image_part_*.tar"


class ShareGpt4oImageConfig(PictureConfig):
    path: str = Field(min_length=1)
    """The folder with the files of the data set."""


class ShareGpt4oImage(WebDataset):
    """The text-to-image half: the pictures of the tars, the captions of the list."""

    Config = ShareGpt4oImageConfig

    def __init__(self, config: Any, resolution: int):
        self._folder = Path(config.path).expanduser()
        self._listed = _listed(self._folder / LIST)
        super().__init__(config, resolution)

    def _shards(self) -> list[Path]:
        return files(str(self._folder / TARS), ".tar")

    def _caption(self, key: str, found: Members) -> str | Flaw:
        return worded(next((self._listed[key, kind] for kind in found if (key, kind) in self._listed), None))


def _listed(file: Path) -> dict[tuple[str, str], str]:
    """Name of a picture, as (key, extension) -> caption."""
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        return {tars.divided(row["output_image"]): row["input_prompt"] for row in rows}
    except FileNotFoundError as error:
        raise DataError(f"There is no file '{file}'.", "Download it with the tars, into one folder.") from error
    except (ValueError, KeyError, TypeError) as error:
        told = f"'{file}' is no list of rows with input_prompt and output_image."
        raise DataError(told, "Download it again.") from error
