"""Parquet with the bytes of pictures: which files and columns, what is refused, and memory that does not grow."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from picture_sets import SIDE, numbers, picture, table, write_parquet
from pyarrow import parquet

from apex_cli.data import screen
from apex_cli.data.parquet import ParquetConfig, ParquetData
from apex_cli.errors import DataError


def read(path: Path | str, **config: str) -> ParquetData:
    return ParquetData(ParquetConfig(path=str(path), **config), resolution=SIDE)


def refusal(path: Path, **config: str) -> str:
    def all_of_it() -> None:
        data = read(path, **config)
        data.pixels(range(len(data)))
        data.prompts(range(len(data)))

    with pytest.raises(DataError) as caught:
        all_of_it()
    assert caught.value.remedy
    return caught.value.message


@pytest.mark.parametrize("place", ["", "part-0.parquet", "part-*.parquet", "sub/*.parquet"])
def test_a_file_a_folder_or_a_pattern(tmp_path, monkeypatch, place):
    write_parquet(tmp_path / "part-0.parquet", range(7))
    write_parquet(tmp_path / "sub" / "part-1.parquet", range(7, 10), struct=False)
    (tmp_path / "sub" / "notes.txt").touch()
    expected = {"": range(10), "sub/*.parquet": range(7, 10)}.get(place, range(7))
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / place, place or "."):
        data = read(path)
        assert numbers(data.pixels(range(len(data)))) == list(expected)
        assert data.prompts(range(len(data))) == [f"caption {number}" for number in expected]


def test_rows_in_any_order(tmp_path):
    data = read(write_parquet(tmp_path / "a.parquet", range(10)))
    for rows in ([9, 0, 4, 4], [3, 2], [5], [5], range(10)):
        assert numbers(data.pixels(rows)) == list(rows)
        assert data.prompts(rows) == [f"caption {row}" for row in rows]


def test_the_columns_can_be_named(tmp_path):
    parquet.write_table(table(range(3)).rename_columns(["picture", "said"]), tmp_path / "a.parquet")
    data = read(tmp_path, image_column="picture", caption_column="said")
    assert numbers(data.pixels([2])) == [2]
    assert data.prompts([2]) == ["caption 2"]
    assert "has no column image or jpg or jpeg or png or webp; it has picture, said" in refusal(tmp_path)
    assert "has no column words" in refusal(tmp_path, image_column="picture", caption_column="words")
    assert "Column 'said' of" in refusal(tmp_path, image_column="said", caption_column="said")


def test_broken_rows_are_named_and_can_be_left_out(tmp_path):
    columns = {
        "image": [picture(0), picture(0), None, b"<html>404</html>", picture(4)],
        "text": ["  ", None, "words", "words", "whole"],
    }
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet", row_group_size=2)
    data = read(tmp_path)
    found = [row for row in screen.look(data, range(5)) if row]
    assert [(row["sample"], row["reason"]) for row in found] == [
        (f"{tmp_path}/a.parquet, row 0", "caption-empty"),
        (f"{tmp_path}/a.parquet, row 1", "caption-missing"),
        (f"{tmp_path}/a.parquet, row 2", "picture-empty"),
        (f"{tmp_path}/a.parquet, row 3", "picture-format"),
    ]
    kept = screen.Kept(data, [row["row"] for row in found])
    assert (kept.prompts([0]), numbers(kept.pixels([0]))) == (["whole"], [4])
    with pytest.raises(DataError, match="row 3' could not be read"):
        data.pixels([3])


def test_broken_files(tmp_path):
    assert "No .parquet file in" in refusal(tmp_path)
    assert "There is no file" in refusal(tmp_path / "x*.parquet")
    file = write_parquet(tmp_path / "a.parquet", range(10))
    file.write_bytes(file.read_bytes()[:-9])
    assert f"'{file}' could not be read" in refusal(tmp_path)
    parquet.write_table(table([]), file)
    assert "has no row" in refusal(tmp_path)


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    first = read(write_parquet(tmp_path / "a.parquet", range(10))).fingerprint
    assert read(write_parquet(tmp_path / "b.parquet", range(10), group=10, struct=False)).fingerprint == first
    assert read(write_parquet(tmp_path / "c.parquet", range(9))).fingerprint != first
    assert read(tmp_path / "a.parquet", crop="buckets").fingerprint != first


@pytest.mark.parametrize("options", [{"use_dictionary": False}, {"row_group_size": 8}], ids=str)
def test_memory_is_that_of_a_few_rows(tmp_path, options):
    """64 MB, read from beginning to end: one row group, or several with a dictionary each, as pyarrow writes them."""
    content = [os.urandom(2**20) for _ in range(64)]
    rows = {"image": pa.array(content, pa.binary()), "text": ["words"] * 64}
    parquet.write_table(pa.table(rows), tmp_path / "a.parquet", compression="none", **options)
    data = read(tmp_path)
    before = pa.total_allocated_bytes()
    most = 0
    for row in range(64):
        assert data.pictures([row])[0][1] == content[row]
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 24 * 2**20
