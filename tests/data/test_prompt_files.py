"""Where prompts come from."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from pyarrow import parquet

from apex_cli.data.prompt_sources import first, lines
from apex_cli.errors import DataError, UsageError

LINES = ["a red cube", "  a   red cube ", "", 'a cat, "quoted"', "Ein Haus über dem Fluß"]
DISTINCT = ["a red cube", 'a cat, "quoted"', "Ein Haus über dem Fluß"]


def read(source, column=None):
    return first(lines(source, column), None)


def write(path, column="prompt"):
    rows = [{"id": i, column: line} for i, line in enumerate(LINES)]
    match path.suffix:
        case ".txt":
            path.write_text("\n".join(LINES), encoding="utf-8")
        case ".jsonl":
            path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        case ".csv":
            quoted = ['{},"{}"'.format(row["id"], row[column].replace('"', '""')) for row in rows]
            path.write_text("\n".join([f"id,{column}", *quoted]), encoding="utf-8")
        case ".parquet":
            parquet.write_table(pa.Table.from_pylist(rows), path)
    return str(path)


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv", "parquet"])
def test_every_format_gives_the_same_distinct_prompts(tmp_path, suffix):
    assert read(write(tmp_path / f"prompts.{suffix}")) == (DISTINCT, 2)


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_a_column_can_be_named_and_must_be_there(tmp_path, suffix):
    path = write(tmp_path / f"prompts.{suffix}", column="words")
    assert read(path, "words")[0] == DISTINCT
    with pytest.raises(DataError, match="has no column prompt or text or caption; it has id, words"):
        read(path)


def test_the_shapes_world_is_a_source():
    prompts, dropped = read("shapes:iid")
    assert (len(prompts), dropped) == (260, 0)


@pytest.mark.parametrize("suffix", ["txt", "jsonl", "csv"])
def test_a_byte_order_mark_is_none_of_the_prompt(tmp_path, suffix):
    path = tmp_path / f"prompts.{suffix}"
    write(path, column="prompt")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read(str(path), None if suffix == "txt" else "prompt") == (DISTINCT, 2)


def test_what_a_table_leaves_empty_is_no_prompt(tmp_path):
    parquet.write_table(pa.table({"prompt": ["a ring", None, "a star"]}), tmp_path / "prompts.parquet")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a ring"}\n{"prompt": null}\n{"prompt": "a star"}')
    for suffix in ("parquet", "jsonl"):
        assert read(str(tmp_path / f"prompts.{suffix}")) == (["a ring", "a star"], 1)


@pytest.mark.parametrize(
    ("name", "content", "error", "told"),
    [
        ("no.txt", None, DataError, "no file"),
        ("a.png", b"", UsageError, "no file of prompts"),
        ("a.txt", b"\xff\xfe\x00", DataError, "could not be read"),
        ("a.jsonl", b'{"prompt": "a"}\n{"pro', DataError, "could not be read"),
        ("b.jsonl", b'{"prompt": "a"}\n"a red cube"', DataError, '"a red cube" is no JSON object'),
        ("a.parquet", b"PAR1", DataError, "could not be read"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, error, told):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=told):
        read(str(tmp_path / name))
