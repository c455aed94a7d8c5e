"""A folder of one's own pictures: every kind of image and caption file, what is refused, and a run on it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w
import torch
from PIL import Image
from tiny_runs import DEFAULTS, apex, metrics

from apex_cli import build, recipe
from apex_cli.data.folder import FolderConfig, FolderData
from apex_cli.data.shapes import ShapesConfig, ShapesData
from apex_cli.errors import DataError, UsageError

SIDE = 16
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def read(folder: Path, **config: Any) -> FolderData:
    return FolderData(FolderConfig(path=str(folder), **config), resolution=SIDE)


def put(file: Path, image: Image.Image | None = None, caption: str | None = "words", **save: object) -> Path:
    """One picture of `file`'s folder, and its caption beside it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    (image or Image.new("RGB", (20, 20), RED)).save(file, **save)
    if caption is not None:
        file.with_suffix(".txt").write_text(caption, encoding="utf-8")
    return file


def colour(pixels: torch.Tensor, row: int = SIDE // 2, column: int = SIDE // 2) -> list[int]:
    """The pixel of one picture [3, H, W] in [-1, 1] as 0 to 255."""
    return ((pixels[:, row, column] + 1) * 127.5).round().int().tolist()


def sees(file: Path) -> torch.Tensor:
    """The one picture of a folder, [3, H, W]."""
    pixels = read(file.parent).pixels([0])
    assert pixels.shape == (1, 3, SIDE, SIDE)
    assert pixels.dtype == torch.float32
    return pixels[0]


def refusal(folder: Path, error: type = DataError, **config: str) -> str:
    with pytest.raises(error) as caught:
        read(folder, **config).pixels([0])
    assert caught.value.remedy
    return caught.value.message


def half_transparent(mode: str) -> Image.Image:
    """Green on the left; on the right red that is transparent."""
    image = Image.new("RGBA", (32, 32), (*GREEN, 255))
    image.paste((*RED, 0), (16, 0, 32, 32))
    return image if mode == "RGBA" else image.convert(mode)


# ---- pictures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "image", "expected", "tolerance"),
    [
        ("rgb.png", Image.new("RGB", (20, 20), BLUE), BLUE, 0),
        ("rgb.bmp", Image.new("RGB", (20, 20), BLUE), BLUE, 0),
        ("rgb.webp", Image.new("RGB", (20, 20), BLUE), BLUE, 6),
        ("RGB.JPG", Image.new("RGB", (20, 20), BLUE), BLUE, 6),
        ("cmyk.jpeg", Image.new("RGB", (20, 20), BLUE).convert("CMYK"), BLUE, 6),
        ("grey.png", Image.new("L", (20, 20), 128), (128,) * 3, 0),
        ("grey16.png", Image.fromarray(np.full((20, 20), 128 * 257, np.uint16)), (128,) * 3, 1),
        ("bits.png", Image.new("1", (20, 20), 1), WHITE, 0),
        ("palette.png", Image.new("RGB", (20, 20), BLUE).convert("P"), BLUE, 0),
        ("greyalpha.png", Image.new("LA", (20, 20), (0, 0)), WHITE, 0),
        ("palette.gif", Image.new("RGB", (20, 20), BLUE).convert("P"), BLUE, 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_any_mode_becomes_rgb(tmp_path, name, image, expected, tolerance):
    found = colour(sees(put(tmp_path / name, image)))
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= tolerance


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_transparency_is_composed_on_white(tmp_path, name):
    pixels = sees(put(tmp_path / name, half_transparent("RGBA"), lossless=True))
    assert (colour(pixels, column=3), colour(pixels, column=12)) == (list(GREEN), list(WHITE))


def test_a_transparent_colour_of_a_palette_or_of_rgb(tmp_path):
    palette = half_transparent("RGBA").quantize(4)
    assert colour(sees(put(tmp_path / "p" / "a.png", palette)), column=12) == list(WHITE)
    plain = Image.new("RGB", (20, 20), RED)
    assert colour(sees(put(tmp_path / "rgb" / "a.png", plain, transparency=RED))) == list(WHITE)


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp"])
def test_the_first_frame_of_an_animation(tmp_path, name):
    frames = [Image.new("RGB", (20, 20), value) for value in (BLUE, RED)]
    put(tmp_path / name, frames[0], save_all=True, append_images=frames[1:], lossless=True)
    assert colour(sees(tmp_path / name)) == list(BLUE)


def test_exif_turns_the_picture(tmp_path):
    """6: the top of the picture is stored on the left, as by a phone held upright."""
    stored = Image.new("RGB", (32, 32), RED)
    stored.paste(BLUE, (0, 0, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = sees(put(tmp_path / "a.png", stored, exif=exif))
    assert (colour(pixels, row=1), colour(pixels, row=SIDE - 2)) == (list(BLUE), list(RED))


def test_the_shorter_side_is_resized_and_the_centre_is_kept(tmp_path):
    wide = Image.new("RGB", (96, 32), RED)
    wide.paste(BLUE, (32, 0, 64, 32))
    pixels = sees(put(tmp_path / "wide" / "a.png", wide))
    assert {tuple(colour(pixels, 8, column)) for column in range(3, SIDE - 3)} == {BLUE}
    assert min(colour(pixels, 8, column)[2] for column in (0, SIDE - 1)) > 230  # a neighbour of the cut shines through
    checkers = Image.fromarray(np.indices((256, 256)).sum(0).astype(np.uint8) % 2 * 255)
    fine = sees(put(tmp_path / "fine" / "a.png", checkers))
    assert fine.abs().max() < 0.02  # antialiased: every pixel is the mean of black and white
    assert colour(sees(put(tmp_path / "small" / "a.png", Image.new("RGB", (3, 2), BLUE)))) == list(BLUE)
    assert colour(sees(put(tmp_path / "thin" / "a.png", Image.new("RGB", (20_000, 1), BLUE)))) == list(BLUE)


# ---- captions ------------------------------------------------------------------------------------------------------


def test_text_files_beside_the_pictures_also_in_subfolders(tmp_path):
    put(tmp_path / "b.png", caption="  a dog, größer\n")
    put(tmp_path / "a" / "c.d.jpg", caption="a cat")
    put(tmp_path / ".thumbs" / "x.png", caption=None)
    put(tmp_path / "._b.png", caption=None)
    (tmp_path / "notes.md").write_text("no picture")
    data = read(tmp_path)
    assert len(data) == 2
    assert data.prompts([1, 0, 1]) == ["a dog, größer", "a cat", "a dog, größer"]


@pytest.mark.parametrize("column", ["text", "prompt", "caption"])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_metadata_file(tmp_path, kind, column):
    said = {"a.png": 'one, "two"', "sub/b.png": "three\u2028four"}
    for name in said:
        put(tmp_path / name, caption=None)
    rows = [{"file_name": f"./{name}", column: text, "other": 1} for name, text in said.items()]
    if kind == "jsonl":
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines) + "\n\n", encoding="utf-8")
    else:
        quoted = ['"' + text.replace('"', '""') + '"' for text in said.values()]
        lines = [f"file_name,{column}", *(f"{name},{text}" for name, text in zip(said, quoted, strict=True))]
        (tmp_path / "metadata.csv").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8", newline="")
    named = {"caption_column": column} if column == "caption" else {}
    assert read(tmp_path, **named).prompts([0, 1]) == list(said.values())
    if column == "caption":
        assert f"metadata.{kind}:" in refusal(tmp_path)
        assert "text or prompt, has file_name, caption" in refusal(tmp_path)


def test_pictures_without_a_caption_are_named_and_counted(tmp_path):
    for number in range(5):
        put(tmp_path / f"{number}.png", caption=None if number else "   ")
    assert "5 of 5 samples in" in refusal(tmp_path)
    first = "0.png: has an empty caption; 1.png: has no caption; 2.png: has no caption; and 2 more."
    assert refusal(tmp_path).endswith(first)
    (tmp_path / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": f"{number}.png", "text": "words"}) + "\n" for number in range(4))
    )
    assert refusal(tmp_path).startswith(f"1 of 5 samples in '{tmp_path}' are broken (20.00%")
    assert refusal(tmp_path).endswith("4.png: has no caption.")
    assert read(tmp_path, max_broken=0.2).prompts([3, 4]) == ["words", ""]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"file_name": "a.png", "text": "x"}\n{"file_name": "z.png", "text": "x"}',
            "z.png: stands in metadata.jsonl, but the folder",
        ),
        (
            '{"file_name": "a.png", "text": "x"}\n{"file_name": "a.png", "text": "y"}',
            "a.png: stands in metadata.jsonl for the second time (line 2)",
        ),
        ('{"file_name": "a.png", "text": "x"}\n{"file_name"', "metadata.jsonl:2: not JSON"),
        ('["a.png", "x"]', "metadata.jsonl:1: not a JSON object"),
        ('{"image": "a.png", "text": "x"}', "metadata.jsonl:1: needs file_name"),
        ('{"file_name": "a.png", "text": null}', "a.png: has an empty caption"),
    ],
)
def test_mistakes_in_a_metadata_file(tmp_path, text, words):
    put(tmp_path / "a.png", caption=None)
    (tmp_path / "metadata.jsonl").write_text(text)
    assert words in refusal(tmp_path)


def test_captions_that_contradict_or_cannot_be_read(tmp_path):
    file = put(tmp_path / "a.png")
    assert "data.caption_column is set" in refusal(tmp_path, UsageError, caption_column="text")
    file.with_suffix(".txt").write_bytes("größer".encode("latin-1"))
    assert "'a.txt', that is not text in UTF-8" in refusal(tmp_path)
    (tmp_path / "metadata.csv").write_text('file_name,text\na.png,"x"y\n')
    assert "metadata.csv:2" in refusal(tmp_path)
    (tmp_path / "metadata.jsonl").touch()
    assert "both metadata.jsonl and metadata.csv" in refusal(tmp_path)


# ---- folders and broken pictures -----------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_or_empty(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    assert "No picture in" in refusal(tmp_path)


def test_broken_pictures_are_named_when_they_are_read(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    for name in ("cut.jpg", "cut.png"):
        file = put(tmp_path / name, noise)
        file.write_bytes(file.read_bytes()[:2000])
    for name, content in {"empty.png": b"", "page.jpg": b"<html>404</html>"}.items():
        put(tmp_path / name).write_bytes(content)
    data = read(tmp_path)
    for row, name in enumerate(["cut.jpg", "cut.png", "empty.png", "page.jpg"]):
        with pytest.raises(DataError, match=f"{name}' could not be read: .*") as caught:
            data.pixels([row])
        assert "<" not in caught.value.message
    assert "truncated" in _message(data, 0)
    assert "not one of JPEG" in _message(data, 3)


def test_other_formats_are_not_opened_whatever_they_are_called(tmp_path):
    put(tmp_path / "a.png").unlink()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", format="TIFF")
    assert "not one of JPEG" in refusal(tmp_path)


def test_a_decompression_bomb_is_refused_by_its_header(tmp_path):
    file = put(tmp_path / "a.png", Image.new("1", (15_000, 15_000)))
    assert file.stat().st_size < 100_000
    assert "decompression bomb" in refusal(tmp_path)


def _message(data: FolderData, row: int) -> str:
    with pytest.raises(DataError) as caught:
        data.pixels([row])
    return caught.value.message


# ---- what a run keeps of it ----------------------------------------------------------------------------------------


def test_the_fingerprint_is_that_of_the_content(tmp_path):
    for number in range(3):
        put(tmp_path / "one" / f"{number}.png", Image.new("RGB", (20, 20), (number, 0, 0)), f"caption {number}")
    first = read(tmp_path / "one").fingerprint
    shutil.copytree(tmp_path / "one", tmp_path / "two", copy_function=shutil.copyfile)  # other times
    assert read(tmp_path / "two").fingerprint == first
    assert FolderData(FolderConfig(path=str(tmp_path / "one")), resolution=32).fingerprint != first
    changes = {
        "caption": lambda folder: (folder / "0.txt").write_text("other"),
        "picture": lambda folder: put(folder / "1.png", Image.new("RGB", (20, 20), (9, 0, 0)), None),
        "name": lambda folder: [(folder / f"2.{x}").rename(folder / f"3.{x}") for x in ("png", "txt")],
        "fewer": lambda folder: (folder / "2.png").unlink(),
    }
    seen = {first}
    for name, change in changes.items():
        shutil.copytree(tmp_path / "one", tmp_path / name)
        change(tmp_path / name)
        seen.add(read(tmp_path / name).fingerprint)
    assert len(seen) == 1 + len(changes)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory) -> Path:
    """16 rendered scenes of the shapes world as PNG and text."""
    folder, world = tmp_path_factory.mktemp("scenes"), ShapesData(ShapesConfig(size=16))
    pixels = ((world.pixels(range(16)) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
    for row, (image, caption) in enumerate(zip(pixels, world.prompts(range(16)), strict=True)):
        put(folder / f"{row:02d}.png", Image.fromarray(image), caption)
    return folder


def write(file: Path, folder: Path, **sections: dict) -> Path:
    file.write_text(tomli_w.dumps(DEFAULTS | {"data": {"name": "folder", "path": str(folder)}} | sections))
    return file


def test_pictures_of_the_right_size_are_not_touched(scenes):
    world = ShapesData(ShapesConfig(size=16))
    data = FolderData(FolderConfig(path=str(scenes)), resolution=64)
    assert torch.equal(data.pixels(range(16)), world.pixels(range(16)))
    assert data.prompts(range(16)) == world.prompts(range(16))


def test_a_run_on_a_folder(scenes, tmp_path, capsys):
    file = write(tmp_path / "mine.toml", scenes)
    assert apex("train", file, "--plan", "--json") == 0
    assert json.loads(capsys.readouterr().out)["disk"]["latent cache"] == 4 * 16 * 8 * 8 * 8
    assert apex("train", file, "--out", tmp_path / "run") == 0
    assert [row["step"] for row in metrics(tmp_path / "run")] == [1, 2, 3, 4]
    contract = json.loads((tmp_path / "run" / "step-000004" / "contract.json").read_text())
    data = build.data(recipe.load(file))
    assert (contract["data"], contract["data_fingerprint"]) == ("folder", data.fingerprint)
    (manifest,) = (tmp_path / "cache" / "latents").glob("*/manifest.json")
    assert data.fingerprint in json.loads(manifest.read_text())["made_of"].values()


@pytest.mark.parametrize("flag", [[], ["--plan"]], ids=["train", "plan"])
def test_a_recipe_without_its_pictures(tmp_path, capsys, flag):
    file = write(tmp_path / "mine.toml", tmp_path / "nowhere")
    assert apex("train", file, "--out", tmp_path / "run", *flag) == 3
    err = capsys.readouterr().err
    assert "does not exist" in err
    assert err.count("\n-> ") == 1


def test_a_backbone_without_pictures(scenes, tmp_path, capsys):
    file = write(tmp_path / "mine.toml", scenes, backbone={"name": "mlp"})
    assert apex("train", file, "--out", tmp_path / "run") == 2
    assert "'mlp' knows no pictures" in capsys.readouterr().err
