"""Tars as others publish them: WebDataset, BLIP3o-60k and ShareGPT-4o-Image, in sets of their shape."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import hostile
import pytest
from picture_sets import SIDE, blip3o_60k, numbers, picture, sharegpt_4o_image, write_tar

from apex_cli.data import screen
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


def broken(data: WebDataset) -> list[screen.Finding]:
    return [found for found in screen.look(data, range(len(data))) if found]


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
    found = [(row["sample"], row["told"]) for row in broken(share())]
    assert found == [(f"{tmp_path}/text_to_image_part_1.tar/image/{n}", "has no caption") for n in (1, 3)]
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
    assert [found["reason"] for found in broken(read(tmp_path))] == ["caption-missing"] * 2
    assert [found["reason"] for found in broken(read(tmp_path, caption="json:text"))] == ["caption-empty"] * 2


@pytest.mark.parametrize(
    ("caption", "content", "words"),
    [
        ("txt", "größer".encode("latin-1"), "has a .txt that is not text in UTF-8"),
        ("txt", b"a " * 2**20, "has a .txt of 2097152 bytes, over 1 MiB"),
        ("json:a", b"{", "has a .json that is not JSON in UTF-8"),
        ("json:a", b"[1]", "has an empty caption"),
    ],
)
def test_captions_that_cannot_be_read(tmp_path, caption, content, words):
    suffix = caption.partition(":")[0]
    files = [("1.png", picture(1)), (f"1.{suffix}", content), ("2.png", picture(2)), ("2.txt", b"two")]
    data = read(write_tar(tmp_path / "a.tar", files), caption=caption)
    assert broken(data)[0]["told"] == words
    assert data.prompts([0]) == [""]


def test_broken_tars(tmp_path):
    assert "No .tar file in" in refusal(tmp_path)
    file = write_tar(tmp_path / "a.tar", [("1.txt", b"words")])
    assert "No picture in the tars" in refusal(tmp_path)
    write_tar(file, [("1.txt", b"words"), ("1.png", picture(1) + bytes(4000))])
    file.write_bytes(file.read_bytes()[:2000])
    assert f"No picture in the tars of '{tmp_path}': {file}/1: lacks the end of its member .png." in refusal(tmp_path)
    file.write_bytes(b"no tar" * 1000)
    assert f"{file}: is no tar" in refusal(tmp_path)


def test_what_a_cut_shard_has_lost_is_broken(tmp_path):
    """Also where it was cut between two samples, which a reader of streams never notices."""
    for name, content in (("a", hostile.cut_behind(b"lost.png")), ("b", hostile.cut_inside(b"lost.png"))):
        (tmp_path / f"{name}.tar").write_bytes(content)
    data = read(tmp_path, caption="json:prompt")
    found = [(Path(row["sample"]).relative_to(tmp_path).as_posix(), row["reason"]) for row in broken(data)]
    assert found == [("a.tar", "shard-truncated"), ("b.tar/lost", "shard-truncated"), ("b.tar", "shard-truncated")]
    assert data.prompts([0, 2]) == ["good", "good"]
    assert data.pixels([0, 2]).shape == (2, 3, SIDE, SIDE)
    with pytest.raises(DataError, match="lacks the end of its member"):
        data.pixels([3])


def test_a_sample_of_half_its_members_is_broken(tmp_path):
    files = [("1.png", picture(1)), ("1.txt", b"one"), ("2.txt", b"two"), ("3.png", picture(3)), ("3.gif", picture(3))]
    data = read(write_tar(tmp_path / "a.tar", files))
    assert [row["reason"] for row in broken(data)] == ["picture-missing", "caption-missing"]
    assert [row["told"] for row in broken(data)][1] == "has .png, .gif, but no caption in .txt"


def test_links_and_devices_are_no_pictures(tmp_path):
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture(5))
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, kind in (("1.png", tarfile.SYMTYPE), ("2.png", tarfile.LNKTYPE), ("3.png", tarfile.CHRTYPE)):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, str(secret)
            tar.addfile(entry)
    assert f"a.tar/1.png: is a link to '{secret}'; it is not followed" in refusal(tmp_path)
    write_tar(tmp_path / "b.tar", [("1.png", picture(1)), ("1.txt", b"one")])
    assert [row["reason"] for row in broken(read(tmp_path))] == ["member-link", "member-link", "member-device"]
