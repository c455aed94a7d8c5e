"""Aspect-ratio buckets: which there are, which a picture goes to, and how its latents are kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from picture_sets import SIDE, folder, numbers
from PIL import Image

from apex_cli.data import buckets, latents, screen
from apex_cli.data.folder import FolderConfig, FolderData
from apex_cli.data.latents import Latents
from apex_cli.data.pools import pools

FOUND = {(64, 64): [0, 3, 5, 8], (80, 48): [1, 6], (48, 80): [2, 7], (96, 32): [4, 9]}
"""Where ten pictures of `SHAPES` go, at 64 pixels and sides of multiples of 16."""


def read(path: Path, crop: str = "buckets", side: int = SIDE) -> FolderData:
    data = FolderData(FolderConfig(path=str(path), crop=crop), resolution=side)
    data.align(16)
    return data


@pytest.fixture(scope="module")
def ten(tmp_path_factory) -> Path:
    return folder(tmp_path_factory.mktemp("ten") / "pictures", range(10))


@pytest.mark.parametrize(("side", "multiple"), [(1024, 16), (1024, 32), (512, 16), (512, 32), (64, 16), (96, 32)])
def test_buckets_have_the_area_of_the_square(side, multiple):
    table = buckets.table(side, multiple)
    assert (side, side) in table
    assert sorted(table) == sorted((height, width) for width, height in table)
    for width, height in table:
        assert width % multiple == height % multiple == 0
        assert 0.5 * side**2 < width * height <= side**2
        assert 1 / 4 <= width / height <= 4 or side < 100


def test_the_usual_table():
    wide = [(1024, 1024), (1088, 960), (1152, 896), (1216, 832), (1280, 768), (1344, 768), (1408, 704), (1472, 704),
            (1536, 640), (1600, 640), (1664, 576), (1728, 576), (1792, 576), (1856, 512), (1920, 512), (1984, 512),
            (2048, 512)]  # fmt: skip
    assert buckets.table(1024, 16)[16:] == wide
    assert buckets.table(512, 32)[16:] == [(width // 2, height // 2) for width, height in wide]


def test_a_picture_goes_to_the_nearest_shape():
    table = [(48, 80), (64, 64), (80, 48)]
    sizes = np.array([[10, 10], [100, 90], [160, 96], [1000, 10], [13, 16], [12, 16], [10, 1000]])
    assert buckets.nearest(table, sizes).tolist() == [1, 1, 2, 2, 1, 0, 0]


def test_pictures_of_a_bucket_have_its_size(ten):
    data = read(ten)
    assert {pool.size: pool.rows.tolist() for pool in pools(data)} == FOUND
    for (width, height), rows in FOUND.items():
        pixels = data.pixels(rows)
        assert pixels.shape == (len(rows), 3, height, width)
        assert numbers(pixels) == rows
    assert read(ten, "centre").pixels([1, 4]).shape == (2, 3, SIDE, SIDE)


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_a_picture_that_exif_turns_is_upright_before_it_is_measured(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "a.txt").write_text("words")
    Image.new("RGB", (80, 48)).save(tmp_path / f"a.{kind}", exif=exif)
    assert read(tmp_path).pixels([0]).shape == (1, 3, 80, 48)


def test_broken_pictures_are_left_out_of_their_pools(tmp_path):
    """One with a header, the only one of its bucket, and one without."""
    folder(tmp_path / "set", range(8))
    tall = tmp_path / "set" / "04.png"
    tall.write_bytes(tall.read_bytes()[:60])
    (tmp_path / "set" / "01.png").write_bytes(b"<html>404</html>")
    data = read(tmp_path / "set")
    found = [finding for finding in screen.look(data, range(8)) if finding]
    assert [(finding["row"], finding["reason"]) for finding in found] == [
        (1, "picture-format"),
        (4, "picture-truncated"),
    ]
    assert {pool.size for pool in pools(data)} == set(FOUND)
    kept = screen.Kept(data, [1, 4])
    assert {pool.size: (pool.rows.tolist(), pool.weight) for pool in pools(kept)} == {
        (64, 64): ([0, 2, 3], 3), (80, 48): ([4], 1), (48, 80): ([1, 5], 2)
    }  # fmt: skip
    assert kept.pixels([4]).shape == (1, 3, 48, 80)


def test_the_fingerprint_says_how_pictures_are_cut(ten):
    wider = read(ten)
    wider.align(32)
    cuts = [read(ten, "centre"), read(ten), read(ten, side=128), wider]
    assert len({data.fingerprint for data in cuts}) == 4


@pytest.mark.parametrize("ranks", [1, 3])
def test_latents_of_every_size_are_kept(sana, ten, monkeypatch, ranks):
    """Shards of two rows, which never hold two sizes."""
    monkeypatch.setattr(latents, "IMAGES", 2)
    monkeypatch.setattr(latents, "ROWS", 2)
    data = read(ten)
    made = Latents(sana, data, torch.device("cpu"), {})
    assert made.missing() == list(range(5))
    for rank in range(ranks):
        list(made.encode(made.missing()[:: ranks - rank]))
    made.open()
    for (width, height), rows in FOUND.items():
        found = made[torch.tensor(rows[::-1])]
        assert found.shape == (len(rows), *sana.latent_shape[:1], height // 8, width // 8)
        with torch.no_grad():
            torch.testing.assert_close(found, sana.encode_images(data.pixels(rows[::-1])))
    assert Latents(sana, read(ten, "centre"), torch.device("cpu"), {}).store.key != made.store.key
