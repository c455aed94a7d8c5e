"""Data sets of the `datasets` library, from disk, from files, and from a hub that is not there."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
from picture_sets import SIDE, blip3o_60k, folder, numbers, picture, write_parquet

from apex_cli.data.hugging_face import DatasetsConfig, DatasetsData
from apex_cli.errors import DataError, SetupError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """Where the library keeps what it has read."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "home"))
    return tmp_path / "home"


def read(path: Path | str, **config: str) -> DatasetsData:
    return DatasetsData(DatasetsConfig(path=str(path), **config), resolution=SIDE)


def holds(data: DatasetsData, which: list[int]) -> bool:
    rows = list(range(len(data)))[::-1]
    expected = [which[row] for row in rows]
    return numbers(data.pixels(rows)) == expected and data.prompts(rows) == [f"caption {n}" for n in expected]


def made(which: range, image: str = "image", caption: str = "text") -> datasets.Dataset:
    features = datasets.Features(
        {image: datasets.Image(), caption: datasets.Value("string"), "n": datasets.Value("int8")}
    )
    rows = {image: [{"bytes": picture(n), "path": None} for n in which], caption: [f"caption {n}" for n in which]}
    return datasets.Dataset.from_dict(rows | {"n": list(which)}, features=features)


def test_what_save_to_disk_wrote(tmp_path):
    made(range(10)).save_to_disk(tmp_path / "one")
    assert holds(read(tmp_path / "one"), list(range(10)))
    parts = datasets.DatasetDict(
        {"train": made(range(6), "picture", "said"), "test": made(range(6, 10), "picture", "said")}
    )
    parts.save_to_disk(tmp_path / "parts")
    named = {"image_column": "picture", "caption_column": "said"}
    assert holds(read(tmp_path / "parts", **named), list(range(6)))
    assert holds(read(tmp_path / "parts", split="test", **named), list(range(6, 10)))
    with pytest.raises(DataError, match="has no split 'val'") as caught:
        read(tmp_path / "parts", split="val")
    assert caught.value.remedy == "It has train, test."
    with pytest.raises(DataError, match="it has picture, said, n"):
        read(tmp_path / "parts")
    with pytest.raises(DataError, match="Column 'n' holds"):
        read(tmp_path / "parts", image_column="n", caption_column="said")


def test_local_files_and_folders(tmp_path):
    file = write_parquet(tmp_path / "set" / "train-00000.parquet", range(10), struct=False)
    assert holds(read(file), list(range(10)))
    assert holds(read(tmp_path / "set"), list(range(10)))
    tar = blip3o_60k(tmp_path / "blip", range(10)) / "dalle3.tar"
    assert holds(read(tar), [0, 2, 4, 6, 8])
    pictures = folder(tmp_path / "pictures", range(3))
    lines = [f'{{"file_name": "{n:02d}.png", "text": "caption {n}"}}' for n in range(3)]
    (pictures / "metadata.jsonl").write_text("\n".join(lines))
    for text in pictures.glob("*.txt"):
        text.unlink()
    assert holds(read(pictures), [0, 1, 2])


def test_the_same_pictures_are_the_same_data_however_they_are_packed(tmp_path):
    from apex_cli.data.parquet import ParquetConfig, ParquetData

    made(range(10)).save_to_disk(tmp_path / "one")
    file = write_parquet(tmp_path / "a.parquet", range(10))
    assert read(tmp_path / "one").fingerprint == ParquetData(ParquetConfig(path=str(file)), SIDE).fingerprint


def test_what_is_not_there(tmp_path):
    with pytest.raises(SetupError, match=r"'nobody/nothing' is no folder or file here, .* hub cannot be reached"):
        read("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="could not be read"):
        read(tmp_path / "empty")
    (tmp_path / "a.zip").touch()
    with pytest.raises(DataError, match="is no file of a data set"):
        read(tmp_path / "a.zip")


def test_the_hub_s_cache_is_enough_offline(tmp_path, home):
    """What was loaded once lies in a folder by the name of the data set; so do rows that were loaded from a file."""
    file = write_parquet(tmp_path / "a.parquet", range(10))
    datasets.load_dataset("parquet", data_files=str(file), cache_dir=str(home))
    (made_of,) = (home / "parquet").glob("default-*")
    made_of.rename(home / "parquet" / "default")
    (arrow,) = (home / "parquet").rglob("parquet-train.arrow")
    arrow.rename(arrow.with_name("pictures-train.arrow"))
    (home / "parquet").rename(home / "somebody___pictures")
    assert holds(read("somebody/pictures"), list(range(10)))
    with pytest.raises(DataError, match="could not be read: Unknown split"):
        read("somebody/pictures", split="validation")
