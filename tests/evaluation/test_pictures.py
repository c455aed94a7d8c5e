"""Folders of anyone: both layouts, and every odd file named and counted instead of averaged away."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageFile, ImageOps

from apex_cli.errors import DataError
from apex_cli.evaluation import pictures
from apex_cli.evaluation.base import Item
from apex_cli.evaluation.pictures import Inspector, collect, files, items_of, match
from apex_cli.evaluation.records import Report, read_records
from apex_cli.evaluation.run import evaluate
from apex_cli.evaluation.settings import EvalConfig

ITEMS = tuple(Item(f"{i:05d}", "task", f"prompt {i}") for i in range(3))
IDS = {item.id for item in ITEMS}


def draw(path: Path, size: int = 8, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size, size)).save(path)


def collection(folder: Path, n: int = 1, cache: Path | None = None) -> pictures.Collection:
    slots, flaws = match(files(folder, IDS), ITEMS, n)
    found = collect(slots, ITEMS, n, Inspector(cache or folder / "cache"), {})
    return pictures.Collection(found.pictures, [*flaws, *found.flaws], found.items, found.n)


def test_geneval_layout(tmp_path):
    for item in ITEMS:
        for k in range(2):
            draw(tmp_path / item.id / "samples" / f"{k:05d}.png")
    found = collection(tmp_path, 2)
    assert [(p.item.id, p.k) for p in found.pictures] == [(item.id, k) for item in ITEMS for k in range(2)]
    assert found.flaws == []


def test_the_metadata_decides_where_a_folder_has_another_order(tmp_path):
    for number, item in enumerate(reversed(ITEMS)):
        draw(tmp_path / f"{number:05d}" / "samples" / "0000.png", size=8 + number)
        (tmp_path / f"{number:05d}" / "metadata.jsonl").write_text(json.dumps({"prompt": item.prompt, "tag": "task"}))
    found = {p.item.prompt: p.path.parents[1].name for p in collection(tmp_path).pictures}
    assert found == {"prompt 2": "00000", "prompt 1": "00001", "prompt 0": "00002"}


def test_metadata_of_other_json_is_refused(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "metadata.jsonl").write_text("[1, 2]\n")
    with pytest.raises(DataError, match="no JSON object"):
        files(tmp_path, set())


@pytest.mark.parametrize("name", ["{}.png", "{}.jpg", "{}-0.png", "{}_0.webp", "sub/{}.jpeg"])
def test_flat_layouts(name, tmp_path):
    for item in ITEMS:
        draw(tmp_path / name.format(item.id))
    assert [p.item for p in collection(tmp_path).pictures] == list(ITEMS)


def test_every_flaw_is_named(tmp_path):
    draw(tmp_path / "00000" / "samples" / "0000.png")
    draw(tmp_path / "00000" / "samples" / "0001.png", mode="L")
    draw(tmp_path / "00000" / "samples" / "0002.png", size=9)
    draw(tmp_path / "00000" / "samples" / "0003.png")
    draw(tmp_path / "00001" / "samples" / "0000.png")
    whole = (tmp_path / "00001" / "samples" / "0000.png").read_bytes()
    (tmp_path / "00001" / "samples" / "0001.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "00001" / "samples" / "0002.png").write_bytes(b"")
    draw(tmp_path / "77777" / "samples" / "0000.png")
    draw(tmp_path / "copy of 00001.png")
    found = collection(tmp_path, 3)
    kinds = Counter(flaw.kind for flaw in found.flaws)
    assert kinds == {"greyscale": 1, "odd size": 1, "unexpected": 3, "unreadable": 2, "missing": 3}
    named = {Path(flaw.name).name: flaw.detail for flaw in found.flaws}
    assert "of which 3" in named["0003.png"]
    assert "9 x 9, most are 8 x 8" in named["0002.png"] or "empty file" in named["0002.png"]
    assert len(found.pictures) + kinds["unreadable"] + kinds["missing"] == found.expected == 9


def test_what_is_not_rgb_is_named_and_measured(tmp_path):
    modes = {"png": ("RGBA", "P", "L", "LA"), "jpg": ("CMYK", "RGB")}
    made = [(mode, suffix) for suffix, own in modes.items() for mode in own]
    for k, (mode, suffix) in enumerate(made):
        draw(tmp_path / "00000" / "samples" / f"{k:04d}.{suffix}", mode=mode)
    found = collection(tmp_path, len(made))
    named = [(flaw.kind, flaw.detail) for flaw in found.flaws if flaw.kind != "missing"]
    kinds = {"RGBA": "not RGB", "P": "not RGB", "CMYK": "not RGB", "L": "greyscale", "LA": "greyscale"}
    assert named == [(kinds[mode], f"mode {mode}") for mode, _ in made if mode != "RGB"]
    assert all(p.pixels().shape == (8, 8, 3) for p in found.pictures) and len(found.pictures) == len(made)


def test_a_second_file_of_one_place_is_named_with_the_first(tmp_path):
    for name in ("00001.jpg", "00001.png"):
        draw(tmp_path / name)
    (flaw,) = [flaw for flaw in collection(tmp_path).flaws if flaw.kind == "unexpected"]
    assert Path(flaw.name).name == "00001.png" and flaw.detail == "image 0 of '00001' is there already: 00001.jpg"


def turned(path: Path, orientation: int = 6) -> np.ndarray:
    """A picture of 8 x 6 whose EXIF asks for a turn; its pixels as they are stored."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    cells = np.random.default_rng(0).integers(0, 255, (6, 8, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(cells).save(path, exif=exif, lossless=True)
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_pictures_stand_upright_as_exif_says(suffix, tmp_path):
    stored = turned(tmp_path / f"00000.{suffix}")
    (one,) = collection(tmp_path).pictures
    assert one.size == (6, 8)
    assert (one.pixels() == np.rot90(stored, -1)).all()


def test_a_folder_without_prompts_names_its_own(tmp_path):
    for name in ("a", "b-1", "b-0"):
        draw(tmp_path / f"{name}.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.png", "prompt": "an a", "tag": "letters"}))
    items, n = items_of(files(tmp_path, set()))
    assert [(item.id, item.prompt, item.tag) for item in items] == [("a", "an a", "letters"), ("b", "", "all")]
    assert n == 2


def test_pictures_of_one_prompt_under_names_of_their_own_all_count(tmp_path):
    for name in "abc":
        draw(tmp_path / f"{name}.png")
    rows = [{"file_name": f"{name}.png", "prompt": prompt} for name, prompt in zip("abc", "xxy", strict=True)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = files(tmp_path, set())
    slots, flaws = match(found, *items_of(found))
    assert {item: file.path.stem for (item, _), file in slots.items()} == {"a": "a", "b": "b", "c": "c"}
    assert flaws == []


@pytest.mark.parametrize("folder", ["nothing", "."])
def test_no_images_is_told(folder, tmp_path):
    with pytest.raises(DataError, match="images"):
        files(tmp_path / folder, IDS)


def test_files_are_opened_once_and_again_when_they_change(tmp_path, monkeypatch):
    for item in ITEMS:
        draw(tmp_path / "images" / f"{item.id}.png")
    first = collection(tmp_path / "images", cache=tmp_path)
    monkeypatch.setattr(pictures, "inspect", lambda path: pytest.fail(f"opened {path} again"))
    assert [p.sha256 for p in collection(tmp_path / "images", cache=tmp_path).pictures] == [
        p.sha256 for p in first.pictures
    ]
    monkeypatch.undo()
    draw(tmp_path / "images" / "00001.png", size=16)
    assert len({p.sha256 for p in collection(tmp_path / "images", cache=tmp_path).pictures}) == 2


def test_many_files_are_opened_at_a_time_and_each_is_counted(tmp_path):
    """In threads: rows in the order of the paths, damaged ones included, and what is known is not opened."""
    paths = [tmp_path / "images" / f"{i}.png" for i in range(40)]
    for i, path in enumerate(paths):
        draw(path, size=8 + i)
    paths[7].write_bytes(paths[7].read_bytes()[:40])
    assert len(list(Inspector(tmp_path).look_at(paths[:5]))) == 5
    inspector = Inspector(tmp_path)
    assert len(list(inspector.look_at(paths))) == 40
    rows = list(inspector.ledger)
    assert [row["path"] for row in rows] == [str(path) for path in paths]
    assert [row.get("width") for row in rows if not row["problem"]] == [8 + i for i in range(40) if i != 7]


def decoded(path: Path) -> tuple:
    """What `inspect` has to say of a file, found by decoding it."""
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            upright = ImageOps.exif_transpose(image)
            return upright.width, upright.height, image.mode, True
    except (OSError, SyntaxError, ValueError, struct.error):
        return None, None, None, False


def inspected(path: Path) -> tuple:
    row = pictures.inspect(path)
    return row.get("width"), row.get("height"), row.get("mode"), not row["problem"]


@pytest.mark.parametrize("kind", ["1", "L", "LA", "I;16", "P", "RGB", "RGBA", "jpg", "webp"])
def test_what_is_not_decoded_is_judged_as_if_it_were(kind, tmp_path):
    """Every kind of picture: whole, cut off at any place, and with any byte changed."""
    mode, suffix = ("RGB", kind) if kind.islower() else (kind, "png")
    path = tmp_path / f"picture.{suffix}"
    cells = np.random.default_rng(0).integers(0, 255, (6, 6, 3), np.uint8)
    image = Image.fromarray(cells).convert("I;16" if mode == "I;16" else mode)
    image.save(path, **({"transparency": 0} if mode == "P" else {}))
    whole = path.read_bytes()
    assert inspected(path) == decoded(path) == (6, 6, mode, True)
    for place in range(0, len(whole), max(1, len(whole) // 100)):
        for content in (whole[:place], whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]):
            path.write_bytes(content)
            assert inspected(path) == decoded(path), place


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of EXIF that it skips
@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_neither_is_one_with_exif(suffix, tmp_path):
    path = tmp_path / f"picture.{suffix}"
    turned(path)
    whole = path.read_bytes()
    assert inspected(path) == decoded(path) == (6, 8, "RGB", True)
    for place in range(0, len(whole), max(1, len(whole) // 300)):
        for change in (0x55, 0xFF):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ change]) + whole[place + 1 :])
            assert inspected(path) == decoded(path), place


def test_a_png_is_not_decoded_before_a_stage_asks_for_it(tmp_path, monkeypatch):
    draw(tmp_path / "a.png")
    draw(tmp_path / "a.jpg")
    loaded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda image: loaded.append(image.format) or load(image))
    assert not pictures.inspect(tmp_path / "a.png")["problem"] and loaded == []
    assert not pictures.inspect(tmp_path / "a.jpg")["problem"] and loaded == ["JPEG"]  # it has no checksums


def lying(path: Path) -> None:
    """Halve the pixels of a PNG and make all of its checksums right."""
    content = path.read_bytes()
    start = content.index(b"IDAT")
    length = struct.unpack(">I", content[start - 4 : start])[0]
    chunk = b"IDAT" + content[start + 4 : start + 4 + length // 2]
    checksum = struct.pack(">I", zlib.crc32(chunk))
    path.write_bytes(
        content[: start - 4] + struct.pack(">I", len(chunk) - 4) + chunk + checksum + content[start + 8 + length :]
    )


@pytest.fixture(scope="module")
def own(job, oracle, tmp_path_factory):
    """A finished evaluation of a perfect model, 6 prompts x 2."""
    folder = tmp_path_factory.mktemp("own")
    *_, report = evaluate(job(oracle(), EvalConfig(prompts=6, n=2), folder))
    return folder, report


def test_our_own_folder_scores_the_same_as_anyones(own, job, tmp_path):
    folder, drawn = own
    *_, report = evaluate(job(folder / "images", EvalConfig(prompts=6, n=2), tmp_path / "e"))
    assert isinstance(report, Report)
    assert report.results["shapes"].tasks == drawn.results["shapes"].tasks
    assert report.setting.seed is None
    assert report.nfe_counted is None
    assert read_records(tmp_path / "e", "shapes")[0].filename == str(
        folder / read_records(folder, "shapes")[0].filename
    )


def test_missing_and_broken_images_make_a_result_partial(own, job, tmp_path):
    import shutil

    images = Path(shutil.copytree(own[0] / "images", tmp_path / "images"))
    one, two, *_ = sorted(images.rglob("*.png"))
    one.unlink()
    two.write_bytes(b"nonsense")
    *_, report = evaluate(job(images, EvalConfig(prompts=6, n=2), tmp_path / "e"))
    result = report.results["shapes"]
    assert (result.status, result.found, result.expected) == ("partial", 10, 12)
    assert Counter(flaw.kind for flaw in report.flaws) == {"missing": 1, "unreadable": 1}


def test_hostile_files_are_named_and_stop_nothing(own, job, tmp_path, monkeypatch):
    """A folder called like a picture, a link that leads nowhere, and a picture too large to be opened."""
    import shutil

    images = Path(shutil.copytree(own[0] / "images", tmp_path / "images"))
    folder, link, bomb, *_ = sorted(images.rglob("*.png"))
    for path in (folder, link):
        path.unlink()
    folder.mkdir()
    link.symlink_to(tmp_path / "gone.png")
    draw(bomb, size=300)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40_000)
    *_, report = evaluate(job(images, EvalConfig(prompts=6, n=2), tmp_path / "e"))
    result = report.results["shapes"]
    assert (result.status, result.found, result.expected) == ("partial", 9, 12)
    told = {flaw.name: flaw.detail for flaw in report.flaws if flaw.kind == "unreadable"}
    assert told.keys() == {str(folder), str(link), str(bomb)}
    assert (told[str(folder)], told[str(link)]) == ("Is a directory", "No such file or directory")
    assert "exceeds limit" in told[str(bomb)]


def test_a_picture_with_right_checksums_that_cannot_be_decoded_is_named_by_its_stage(own, job, tmp_path):
    import shutil

    images = Path(shutil.copytree(own[0] / "images", tmp_path / "images"))
    lying(sorted(images.rglob("*.png"))[0])
    *_, report = evaluate(job(images, EvalConfig(prompts=6, n=2), tmp_path / "e"))
    result = report.results["shapes"]
    assert (result.status, result.found, result.expected) == ("partial", 11, 12)
    assert "1 images could not be judged" in result.notes[-1] and "cannot be decoded" in result.notes[-1]
    assert report.diversity is not None


def test_memory_stays_flat(tmp_path):
    """Inspecting ten times as many pictures takes no more memory than the rows about them."""
    rng = np.random.default_rng(0)
    side, peaks = 256, []
    for count in (20, 200):
        folder = tmp_path / str(count)
        folder.mkdir()
        for i in range(count):
            Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(folder / f"{i}.jpg", quality=30)
        tracemalloc.start()
        items, n = items_of(found := files(folder, set()))
        slots, _ = match(found, items, n)
        for picture in collect(slots, items, n, Inspector(folder / "cache"), {}).pictures:
            picture.pixels()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 3 * side * side * 3
