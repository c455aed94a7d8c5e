"""Tars as others publish them: WebDataset, BLIP3o-60k and ShareGPT-4o-Image, in sets of their shape."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
from picture_sets import SIDE, blip3o_60k, numbers, picture, sharegpt_4o_image, write_tar

from apex_cli.data.share_gpt_4o_image import ShareGpt4oImage, ShareGpt4oImageConfig
from apex_cli.data.webdataset import WebDataset, WebDatasetConfig
from apex_cli.errors import DataError

HALVES = [0, 2, 4, 6, 8, 1, 3, 5, 7, 9]
"""Ten samples in two tars."""


def read(path: Path, **config: str) -> WebDataset:
    return WebDataset(WebDatasetConfig(path=str(path), **config), resolution=SIDE)


def refusal(path: Path, **config: str) -> str:
    with pytest.raises(DataError) as caught:
        read(path, **config).pixels([0])
    assert caught.value.remedy
    return caught.value.message


def captions(which: list[int]) -> list[str]:
    return [f"caption {number}" for number in which]


def test_blip3o_60k(tmp_path):
    data = read(blip3o_60k(tmp_path, range(10)))
    assert numbers(data.pixels(range(10))) == HALVES
    assert data.prompts([9, 0]) == captions([9, 0])
    assert len(read(tmp_path / "dalle3.tar")) == len(read(tmp_path / "gen*.tar")) == 5


def test_sharegpt_4o_image(tmp_path):
    def share() -> ShareGpt4oImage:
        return ShareGpt4oImage(ShareGpt4oImageConfig(path=str(tmp_path)), resolution=SIDE)

    data = ShareGpt4oImage(ShareGpt4oImageConfig(path=str(sharegpt_4o_image(tmp_path, range(10)))), resolution=SIDE)
    assert numbers(data.pixels(range(10))) == HALVES  # pictures to edit are left out
    assert data.prompts(range(10)) == captions(HALVES)
    (tmp_path / "text_to_image_part_0.tar").unlink()
    assert share().prompts(range(5)) == captions(HALVES[5:])
    rows = json.loads((tmp_path / "text_to_image.json").read_text())
    (tmp_path / "text_to_image.json").write_text(json.dumps(rows[4:]))
    with pytest.raises(DataError, match=r"part_1.tar/image/1.png' has no caption"):
        share()
    (tmp_path / "text_to_image.json").write_text('{"a": 1}')
    with pytest.raises(DataError, match="no list of rows with input_prompt"):
        share()
    (tmp_path / "text_to_image.json").unlink()
    with pytest.raises(DataError, match="There is no file"):
        share()


def test_a_caption_in_json_and_other_files_of_a_sample(tmp_path):
    files = [
        ("d/1.seg.png", picture(3)), ("d/1.json", b'{"prompt": "caption 1", "seed": 4}'), ("d/1.PNG", picture(1)),
        ("readme.md", b"#"), ("d/2.json", b'{"prompt": "caption 2"}'), ("d/2.webp", picture(2, "WEBP")),
    ]  # fmt: skip
    data = read(write_tar(tmp_path / "a.tar", files), caption="json:prompt")
    assert numbers(data.pixels([0, 1])) == [1, 2]
    assert data.prompts([0, 1]) == captions([1, 2])
    assert "1.PNG' has no caption" in refusal(tmp_path)
    assert "1.PNG' has no caption" in refusal(tmp_path, caption="json:text")


@pytest.mark.parametrize(
    ("caption", "content", "words"),
    [
        ("txt", "größer".encode("latin-1"), "no text in UTF-8"),
        ("json:a", b"{", "no JSON object"),
        ("json:a", b"[1]", "no JSON object"),
    ],
)
def test_captions_that_cannot_be_read(tmp_path, caption, content, words):
    suffix = caption.partition(":")[0]
    write_tar(tmp_path / "a.tar", [("1.png", picture(1)), (f"1.{suffix}", content)])
    assert words in refusal(tmp_path, caption=caption)


def test_broken_tars(tmp_path):
    assert "No .tar file in" in refusal(tmp_path)
    file = write_tar(tmp_path / "a.tar", [("1.txt", b"words")])
    assert "No picture in the tars" in refusal(tmp_path)
    write_tar(file, [("1.txt", b"words"), ("1.png", picture(1) + bytes(4000))])
    file.write_bytes(file.read_bytes()[:2000])
    assert f"'{file}' could not be read: unexpected end of data" in refusal(tmp_path)
    file.write_bytes(b"no tar" * 1000)
    assert f"'{file}' could not be read" in refusal(tmp_path)


def test_links_and_devices_are_no_pictures(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(5))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("1.png", tarfile.SYMTYPE), ("2.png", tarfile.LNKTYPE), ("3.png", tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, str(secret)
            tar.addfile(entry)
    assert "No picture in the tars" in refusal(tmp_path)
