"""Data sets of the `datasets` library: a folder that `save_to_disk` wrote, local files that it reads, or the hub.

What comes from the hub or from files is kept by that library as Arrow files under HF_HOME, and found there again
without a network (HF_HUB_OFFLINE=1). Rows are read from the mapped files. No code of a data set is ever run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from apex_cli.data.flaws import Flaw
from apex_cli.data.members import worded
from apex_cli.data.picture_data import CAPTIONS, IMAGES, PictureConfig, PictureData, column
from apex_cli.data.pictures import Named
from apex_cli.errors import DataError, SetupError
from apex_cli.extras import install

SAVED = ("state.json", "dataset_dict.json")
"""One of them lies in a folder that `save_to_disk` wrote."""
KINDS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset", ".json": "json", ".jsonl": "json"}
"""Files that are read on their own; a folder may hold whatever `load_dataset` knows."""


class DatasetsConfig(PictureConfig):
    path: str = Field(min_length=1)
    """A folder of `save_to_disk`, a folder or file that `load_dataset` reads, or an id on the hub."""
    split: str = "train"
    subset: str | None = None
    """The configuration of a data set on the hub that has several."""
    revision: str | None = None
    """A commit, tag or branch on the hub; name a commit to train on the same pictures for ever."""
    image_column: str | None = None
    """None takes image, jpg, jpeg, png or webp."""
    caption_column: str | None = None
    """None takes text, prompt, caption or txt."""


class DatasetsData(PictureData):
    """`prompts(rows)` and `pixels(rows)` of one split."""

    Config = DatasetsConfig

    def __init__(self, config: DatasetsConfig, resolution: int):
        super().__init__(config, resolution)
        self._path, found = config.path, _loaded(config)
        names = found.column_names
        self._image = column(names, config.image_column, IMAGES, "image_column", config.path)
        self._caption = column(names, config.caption_column, CAPTIONS, "caption_column", config.path)
        if not len(found):
            raise DataError(f"'{config.path}' has no row.", "Set data.path to a data set with pictures.")
        self._images = _stored(found.select_columns([self._image]), self._image)
        self._captions = found.select_columns([self._caption])

    def __len__(self) -> int:
        return len(self._captions)

    def captions(self, rows: Sequence[int]) -> list[str | Flaw]:
        return [worded(text) for text in self._captions[list(rows)][self._caption]]

    def pictures(self, rows: Sequence[int]) -> list[Named]:
        found = self._images[list(rows)][self._image]
        return [(self.name(row), _content(value)) for row, value in zip(rows, found, strict=True)]

    def name(self, row: int) -> str:
        return f"{self._path}, row {row}"


def _stored(images: Any, name: str) -> Any:
    """The column without decoding: what was stored of each picture."""
    from datasets import Image, Value

    kind = images.features[name]
    if isinstance(kind, Image):
        return images.cast_column(name, Image(decode=False))
    if kind in (Value("binary"), Value("large_binary")) or (
        isinstance(kind, dict) and {"bytes", "path"} <= kind.keys()
    ):
        return images
    raise DataError(f"Column '{name}' holds {kind}, no pictures.", "Name another: data.image_column.")


def _content(value: Any) -> bytes | Path:
    if isinstance(value, dict):
        return Path(value["path"]) if value["bytes"] is None and value["path"] else value["bytes"] or b""
    return value or b""


def _loaded(config: DatasetsConfig) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise SetupError("The package 'datasets' is not installed.", install("data")) from error
    place = Path(config.path).expanduser()
    datasets.disable_progress_bars()
    try:
        return _on_disk(place, config) if place.exists() else _on_hub(config)
    except ConnectionError as error:
        told = f"'{config.path}' is no folder or file here, not in the cache of the hub, and the hub cannot be reached."
        remedy = "Correct data.path, or load it once with a network: HF_HOME says where it is kept."
        raise SetupError(told, remedy) from error
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise DataError(f"'{config.path}' could not be read: {reason}.", "Correct data.path or data.split.") from error


def _on_disk(place: Path, config: DatasetsConfig) -> Any:
    import datasets

    if any((place / name).is_file() for name in SAVED):
        found = datasets.load_from_disk(str(place))
        return _split(found, config) if isinstance(found, datasets.DatasetDict) else found
    if place.is_dir():
        return datasets.load_dataset(str(place), split=config.split)
    if place.suffix not in KINDS:
        raise DataError(f"'{place}' is no file of a data set.", f"Known: {', '.join(KINDS)}, or a folder.")
    return datasets.load_dataset(KINDS[place.suffix], data_files=str(place), split="train")


def _split(found: Any, config: DatasetsConfig) -> Any:
    if config.split not in found:
        raise DataError(f"'{config.path}' has no split '{config.split}'.", f"It has {', '.join(found)}.")
    return found[config.split]


def _on_hub(config: DatasetsConfig) -> Any:
    from datasets import load_dataset

    return load_dataset(config.path, config.subset, split=config.split, revision=config.revision)
