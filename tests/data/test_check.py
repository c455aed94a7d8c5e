"""`apex data check`: what is told of a set, and that a set of any size is checked in the same memory."""

from __future__ import annotations

import io
import json
import re
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import datasets
import hostile
import numpy as np
import pyarrow as pa
import pytest
from hostile import encoded, noise
from PIL import Image, ImageEnhance
from pyarrow import parquet
from tiny_runs import apex, write_recipe

from apex_cli import build
from apex_cli.data.checks import report, run
from apex_cli.data.checks.rules import Limits
from apex_cli.data.checks.samples import Sample, Source
from apex_cli.data.checks.seen import look
from apex_cli.data.checks.sources import open_source
from apex_cli.data.places import Place
from apex_cli.data.synth import synthesise
from apex_cli.drafts import Flag
from apex_cli.errors import DataError, UsageError
from apex_cli.recipe import load_synth
from apex_cli.worlds.shapes.renderer import Scene, Shape, render
from apex_cli.worlds.shapes.vocabulary import COLORS, SHAPES


def put(folder: Path, name: str, image: Image.Image, caption: str, **save: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name, **save)
    (folder / name).with_suffix(".txt").write_text(caption)


def check(path: Path | Source, out: Path, limits: Limits = Limits()) -> dict[str, list[tuple[str, str]]]:
    """Reason -> (sample, sentence)."""
    for _ in run.check(open_source(path) if isinstance(path, Path) else path, str(path), out, limits):
        pass
    found: dict[str, list[tuple[str, str]]] = {}
    for name in (report.QUARANTINE, report.REMARKS):
        for line in (out / name).read_text().splitlines():
            row = json.loads(line)
            found.setdefault(row["reason"], []).append((row["sample"], row["told"]))
    return found


@pytest.fixture
def mixed(tmp_path) -> Path:
    """Four whole samples with something to remark, and two broken ones."""
    folder = tmp_path / "pics"
    put(folder, "a.png", noise(1), "one")
    put(folder, "b.png", noise(2).convert("L"), "Two  words")
    put(folder, "c.jpg", noise(1, 200), "two words", quality=50)
    put(folder, "d.gif", noise(3, 30), "w " * 5, save_all=True, append_images=[noise(4, 30)])
    put(folder, "e.png", noise(5), " ")
    put(folder, "f.png", noise(6), "six")
    (folder / "f.png").write_bytes(b"")
    (folder / "sub").mkdir()
    put(folder / "sub", "g.png", noise(1), "seven")
    return folder


def test_what_is_remarked(mixed, tmp_path):
    found = check(mixed, tmp_path / "out", Limits(side=64, tokens=4))
    assert found == {
        "picture-empty": [("f.png", "the file is empty")],
        "caption-empty": [("e.png", "has an empty caption")],
        "caption-long": [("d.gif", "has a caption of 5 words, of which 4 tokens are kept")],
        "caption-duplicate": [("c.jpg", "has the caption of b.png")],
        "picture-tiny": [("d.gif", "has 30 x 30 pixels, under 64")],
        "picture-mode": [
            ("b.png", "is stored as greyscale: it is converted to RGB"),
            ("d.gif", "is animated: its first frame is used"),
            ("d.gif", "is stored as a palette: it is converted to RGB"),
        ],
        "picture-duplicate": [("sub/g.png", "has the bytes of a.png")],
        "picture-near": found["picture-near"],
    }
    ((name, told),) = found["picture-near"]
    assert name == "c.jpg"
    assert re.fullmatch(r"looks like a\.png \([0-4] of 63 bits, colours within [0-9]%\)", told)


def test_the_report_and_the_page(mixed, tmp_path):
    check(mixed, tmp_path / "out")
    told = report.read_report(tmp_path / "out")
    assert (told["format"], told["kind"], told["samples"], told["broken"]) == (1, "folder", 7, 2)
    assert told["reasons"]["picture-empty"] == {
        "broken": True, "count": 1, "meaning": "A file without a byte.", "first": ["f.png"],
    }  # fmt: skip
    assert told["limits"] == {"side": 64, "tokens": 300, "counted": "words"}
    assert told["modes"] == {"RGB": 4, "L": 1, "P": 1}
    page = (tmp_path / "out" / report.PAGE).read_text()
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    assert {name for name in told["reasons"] if f'data-tag="{name}"' in page} == told["reasons"].keys()
    assert (
        page.count("<img") == sum(row["count"] for row in told["reasons"].values()) + 3 - 1
    )  # three pairs, one without a picture
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(
        [report.PAGE, report.QUARANTINE, report.REMARKS, report.REPORT]
    )


def test_captions_and_names_are_text_on_the_page(tmp_path):
    put(tmp_path / "set", "<b>&.png", noise(1, 20), "<script>alert(1)</script>")
    check(tmp_path / "set", tmp_path / "out")
    page = (tmp_path / "out" / report.PAGE).read_text()
    assert "<b>" not in page
    assert "<script>alert" not in page
    assert "&lt;b&gt;&amp;.png" in page


def test_a_set_with_nothing_to_remark(tmp_path):
    put(tmp_path / "set", "a.png", noise(1), "one")
    assert check(tmp_path / "set", tmp_path / "out") == {}
    assert "Nothing to remark" in (tmp_path / "out" / report.PAGE).read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((500, 300)),
        lambda image: ImageEnhance.Brightness(image).enhance(1.05),
        lambda image: Image.open(io.BytesIO(encoded("JPEG", image, quality=20))).convert("RGB"),
    ],
    ids=["scaled", "brighter", "compressed"],
)
def test_near_pictures_stay_near(change):
    image = noise(1, 256)
    one, other = look(image), look(change(image))
    assert (one.layout ^ other.layout).bit_count() <= 4
    assert max(abs(a - b) for a, b in zip(one.colours, other.colours, strict=True)) <= 25


def test_different_scenes_are_not_near(tmp_path):
    """60 scenes of few shapes anywhere on a plain ground, the hardest pictures to tell apart."""
    rng = np.random.default_rng(0)
    for row in range(60):
        things = zip(
            rng.permutation(SHAPES)[:3], rng.permutation(list(COLORS)), rng.uniform(0.2, 0.8, (3, 2)), strict=False
        )
        scene = Scene(tuple(Shape(str(kind), str(color), x, y, 0.155) for kind, color, (x, y) in things))
        put(tmp_path / "set", f"{row:02d}.png", Image.fromarray(render(scene)), f"scene {row}")
    assert "picture-near" not in check(tmp_path / "set", tmp_path / "out")


def test_memory_is_that_of_a_few_samples(tmp_path):
    """Beyond 56 bytes a picture, a thousand samples more take no more memory."""
    contents = [encoded("PNG", noise(seed, 16)) for seed in range(8)]
    file = tmp_path / "pictures"
    file.write_bytes(b"".join(contents))
    starts = [sum(map(len, contents[:n])) for n in range(8)]

    class Many:
        kind = "made"

        def __init__(self, count: int):
            self.count = count

        def __len__(self) -> int:
            return self.count

        def __iter__(self) -> Iterator[Sample]:
            for n in range(self.count):
                yield Sample(f"{n}.png", Place(file, starts[n % 8], len(contents[n % 8])), f"caption {n} " * 9)

    peaks = []
    for count in (100, 1100):
        tracemalloc.start()
        check(Many(count), tmp_path / f"out-{count}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 2**20


# ---- shards --------------------------------------------------------------------------------------------------------


def test_a_set_of_synth_data_is_whole_and_its_damage_is_found(tmp_path):
    teacher, out = build.load_model("assets:shapes_teacher"), tmp_path / "out"
    prompts = ["a red cube", "two blue rings", "a star"]
    small = load_synth(None, [Flag("--set", "synth.shard_size", 2)])
    order = build.order(small, teacher, teacher.sample.with_nfe(1), prompts)
    for _ in synthesise(order, tmp_path / "set"):
        pass
    found = check(tmp_path / "set", out)
    assert found.keys() <= {"picture-near"}  # one evaluation of the teacher is grey
    assert report.read_report(out)["samples"] == 3
    shard = tmp_path / "set" / "shard-00000.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    assert {name for name, _ in check(tmp_path / "set", out)["shard-truncated"]} == {"shard-00000.tar"}
    assert report.read_report(out)["samples"] == 4  # and the shard


def test_plain_tars_without_an_index(tmp_path):
    (tmp_path / "set").mkdir()
    members = [("x/1.jpg", encoded("JPEG")), ("x/1.txt", "größer".encode()), ("x/._1.jpg", b"mac"), ("README", b"hi")]
    (tmp_path / "set" / "any.tar").write_bytes(hostile.tar(*members))
    assert check(tmp_path / "set", tmp_path / "out") == {}
    assert report.read_report(tmp_path / "out")["samples"] == 1
    with pytest.raises(UsageError, match="--column"):
        open_source(tmp_path / "set", "text")


# ---- tables --------------------------------------------------------------------------------------------------------

TABLE = {
    "image": [encoded("PNG", noise(1)), encoded("PNG", noise(1)), None, encoded("PNG", noise(2)), encoded("GIF")],
    "text": ["one", "two", "three", None, "five"],
}


def test_a_table_is_checked_as_training_reads_it(tmp_path):
    (tmp_path / "set" / "sub").mkdir(parents=True)
    parquet.write_table(pa.table(TABLE), file := tmp_path / "set" / "sub" / "a.parquet")
    pictures = [content and {"bytes": content, "path": None} for content in TABLE["image"]]
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Value("string")})
    datasets.Dataset.from_dict({"image": pictures, "text": TABLE["text"]}, features).save_to_disk(tmp_path / "saved")
    for path, kind, name in (
        (tmp_path / "set", "parquet", str(file)), (file, "parquet", str(file)),
        (tmp_path / "saved", "datasets", str(tmp_path / "saved")),
    ):  # fmt: skip
        found = check(path, tmp_path / "out")
        rows = [f"{name}, row {row}" for row in range(5)]
        assert found == {
            "picture-empty": [(rows[2], "the file is empty")],
            "caption-missing": [(rows[3], "has no caption")],
            "picture-mode": [(rows[4], "is stored as a palette: it is converted to RGB")],
            "picture-duplicate": [(rows[1], f"has the bytes of {rows[0]}")],
        }
        told = report.read_report(tmp_path / "out")
        assert (told["kind"], told["samples"], told["broken"]) == (kind, 5, 2)
        # Of the row without a caption too, and both of the pair, which are read once more.
        assert (tmp_path / "out" / report.PAGE).read_text().count("<img") == 1 + 1 + 2


def test_a_recipe_alone_names_what_is_checked(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parquet.write_table(pa.table(TABLE).rename_columns(["image", "said"]), tmp_path / "a.parquet")
    put(tmp_path / "pics", "a.png", noise(7), "seven")
    sources = [{"name": "parquet", "path": "a.parquet", "caption_column": "said"}, {"name": "folder", "path": "pics"}]
    recipe = write_recipe(tmp_path / "mine.toml", data={"name": "mixture", "sources": sources})
    recipe.write_text(recipe.read_text().replace("size = 32\n", ""))
    assert apex("data", "check", "--recipe", "mine.toml") == 3
    captured = capsys.readouterr()
    assert "2 of 6 samples are broken" in captured.out
    told = report.read_report(tmp_path / "checks" / "mine")
    assert (told["path"], told["kind"], told["samples"]) == ("mine", "mixture", 6)
    assert apex("data", "check") == 2
    assert "There is nothing to check" in capsys.readouterr().err
    assert apex("data", "check", "--recipe", "mine.toml", "--column", "said") == 2
    assert "--set data.caption_column" in capsys.readouterr().err
    assert apex("data", "check", "--recipe", "shapes_full") == 2
    assert "samples that are no files" in capsys.readouterr().err


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command(mixed, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert apex("data", "check", mixed) == DataError.exit_code
    captured = capsys.readouterr()
    assert "broken  picture-empty" in captured.out
    assert "2 of 7 samples are broken (28.57%)" in captured.out
    assert captured.out.strip().endswith("checks/pics/index.html")
    assert "check samples 7/7" in captured.err
    assert apex("data", "check", mixed, "--json", "--out", tmp_path / "out") == 3
    told = json.loads(capsys.readouterr().out)
    assert told == report.read_report(tmp_path / "out") | {
        "page": str(tmp_path / "out" / report.PAGE), "quarantine": str(tmp_path / "out" / report.QUARANTINE),
    }  # fmt: skip
    for name in ("e.png", "f.png"):
        (mixed / name).unlink()
    assert apex("data", "check", mixed, "--min-side", "300") == 0
    assert re.search(r"remark  picture-tiny +5 ", capsys.readouterr().out)


def test_mistakes_of_the_command(mixed, tmp_path, capsys):
    assert apex("data", "check", mixed, "--out", mixed / "report") == 2
    assert "lies inside the set" in capsys.readouterr().err
    assert not (mixed / "report").exists()
    assert apex("data", "check", tmp_path / "nowhere", "--out", tmp_path / "out") == 3
    assert "does not exist" in capsys.readouterr().err
    assert apex("data", "check", mixed, "--set", "train.steps=1", "--out", tmp_path / "out") == 2
    assert "Give one: --recipe" in capsys.readouterr().err
    assert apex("data", "check", mixed, "--tokenizer", str(mixed), "--out", tmp_path / "out") == 4
    assert "holds no tokenizer" in capsys.readouterr().err


def test_captions_are_counted_by_a_tokenizer_or_that_of_a_recipe(tmp_path, capsys):
    put(tmp_path / "set", "a.png", noise(1), "a photo of a red cube")
    arguments = ("data", "check", tmp_path / "set", "--json", "--out", tmp_path / "out")
    assert apex(*arguments, "--tokenizer", "assets:shapes_teacher", "--max-tokens", "6") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["limits"] == {"side": 64, "tokens": 6, "counted": "tokens"}
    assert told["reasons"]["caption-long"]["first"] == ["a.png"]  # six words, and the token that opens every prompt
    recipe = write_recipe(tmp_path / "mine.toml", backbone={"resolution": 128, "max_tokens": 7})
    assert apex(*arguments, "--recipe", recipe) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["limits"] == {"side": 128, "tokens": 7, "counted": "tokens"}
    assert told["reasons"].keys() == {"picture-tiny"}
