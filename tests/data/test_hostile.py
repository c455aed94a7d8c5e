"""Damaged and hostile input: every kind is survived and named.

Nothing is written outside the report's folder, and the source stays as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import hostile
import pytest
from hostile import (
    as_picture,
    as_shard,
    captioned,
    encoded,
    grainy,
    half,
    in_folder,
    members,
    metadata,
    noise,
    sample,
    special,
    tar,
    with_rows,
    zeroed,
)  # fmt: skip

from apex_cli.data import pictures, tars
from apex_cli.data.checks import report, run
from apex_cli.data.checks.rules import Limits
from apex_cli.data.checks.sources import open_source
from apex_cli.data.flaws import REASONS, Refused
from apex_cli.data.shards import MANIFEST, read_manifest
from apex_cli.errors import DataError

SHARD = "shard-00000.tar"
BAD, GOOD = f"{SHARD}/bad", f"{SHARD}/good"
PICTURE, JSON = encoded("PNG", noise(2)), b'{"prompt": "bad"}'

# (set, sample, reason, sentence); every set also holds one whole sample, unless its shard is lost as a whole
KINDS: dict[str, tuple[Callable[[Path], None], str, str, str]] = {
    # pictures
    "empty picture": (as_picture(b""), "bad.png", "picture-empty", "the file is empty"),
    "a page of HTML": (as_picture(b"<html>404"), "bad.png", "picture-format", "not one of JPEG, PNG, WEBP, BMP, GIF"),
    "a TIFF": (as_picture(encoded("TIFF")), "bad.png", "picture-format", "not one of JPEG"),
    "half a JPEG": (as_picture(half(grainy("JPEG"))), "bad.png", "picture-truncated", "image file is truncated"),
    "half a PNG": (as_picture(half(grainy("PNG"))), "bad.png", "picture-truncated", "image file is truncated"),
    "half a GIF": (as_picture(half(grainy("GIF"))), "bad.png", "picture-truncated", "image file is truncated"),
    "half a WebP": (as_picture(half(grainy("WEBP"))), "bad.png", "picture-truncated", "image file is truncated"),
    "half a BMP": (as_picture(half(grainy("BMP"))), "bad.png", "picture-truncated", "image file is truncated"),
    "zeros for half a JPEG": (as_picture(zeroed(grainy("JPEG"))), "bad.png", "picture-truncated", "it ends in zeros"),
    "zeros for half a PNG": (as_picture(zeroed(grainy("PNG"))), "bad.png", "picture-corrupt", "broken data stream"),
    "bomb in PNG": (as_picture(hostile.huge_png()), "bad.png", "picture-bomb", "decompression bomb"),
    "bomb in WebP": (as_picture(hostile.huge_webp()), "bad.png", "picture-bomb", "over 64 megapixels"),
    "bomb in GIF": (as_picture(hostile.huge_gif()), "bad.png", "picture-bomb", "over 64 megapixels"),
    "bomb in a comment": (as_picture(hostile.swollen_text()), "bad.png", "picture-corrupt", "Decompressed data too"),
    "a pipe": (in_folder(lambda folder: os.mkfifo(folder / "bad.png")), "bad.png", "picture-unreadable", "not a reg"),
    "a folder": (in_folder(lambda folder: (folder / "bad.png").mkdir()), "bad.png", "picture-unreadable", "not a reg"),
    "a dangling link": (
        in_folder(lambda folder: (folder / "bad.png").symlink_to("gone")), "bad.png", "picture-missing", "not there",
    ),
    # captions
    "no caption": (captioned(None), "bad.png", "caption-missing", "has no caption"),
    "empty caption": (captioned(b" \n"), "bad.png", "caption-empty", "has an empty caption"),
    "caption in Latin-1": (captioned(b"gr\xf6\xdfer"), "bad.png", "caption-unreadable", "'bad.txt', that is not text"),
    "caption of 2 MB": (captioned(b"a " * 2**20), "bad.png", "caption-unreadable", "2097152 bytes, over 1 MiB"),
    "a picture that is not there": (
        metadata(("good.png", "x"), ("bad.png", "y"), ("gone.png", "z")), "gone.png", "picture-missing", "stands in",
    ),
    "a picture outside": (
        metadata(("good.png", "x"), ("bad.png", "y"), ("../../x.png", "z")), "../../x.png", "member-outside", "leads",
    ),
    "a caption twice": (
        metadata(("good.png", "x"), ("bad.png", "y"), ("./bad.png", "z")), "bad.png", "key-duplicate", "(line 3)",
    ),
    # members of shards
    "path traversal": (members(("../out.png", b"x")), f"{SHARD}/../out.png", "member-outside", "leads out of the set"),
    "hidden traversal": (members(("a/../../x.png", b"x")), f"{SHARD}/a/../../x.png", "member-outside", "leads out"),
    "absolute name": (members(("/tmp/out.png", b"x")), f"{SHARD}//tmp/out.png", "member-outside", "leads out"),
    "name with a drive": (members(("C:\\out.png", b"x")), f"{SHARD}/C:\\out.png", "member-outside", "leads out"),
    "symbolic link": (
        as_shard(special("bad.png", tarfile.SYMTYPE, "/etc/passwd")), f"{SHARD}/bad.png", "member-link", "'/etc/passwd'"
    ),
    "hard link": (
        as_shard(special("bad.png", tarfile.LNKTYPE, "good.png")), f"{SHARD}/bad.png", "member-link", "not followed"
    ),
    "character device": (as_shard(special("bad.png", tarfile.CHRTYPE)), f"{SHARD}/bad.png", "member-device", "device"),
    "named pipe": (as_shard(special("bad.png", tarfile.FIFOTYPE)), f"{SHARD}/bad.png", "member-device", "not opened"),
    "sparse file": (as_shard(hostile.sparse()), f"{SHARD}/bad.png", "member-sparse", "claims 1099511627776 bytes"),
    "size of a terabyte": (
        as_shard(hostile.claiming(size=str(2**40))), f"{SHARD}/bad.png", "member-large", "claims 1099511627776 bytes",
    ),
    "negative size": (as_shard(hostile.claiming(size="-5000")), SHARD, "shard-corrupt", "leads backwards"),
    "swollen header": (as_shard(hostile.swollen_header()), SHARD, "shard-corrupt", "no header where one belongs"),
    "a member twice": (
        members(("bad.png", PICTURE), ("bad.json", JSON), ("bad.png", PICTURE)), BAD, "key-duplicate", ".png twice"
    ),
    "two pictures": (
        members(("bad.png", PICTURE), ("bad.gif", PICTURE), ("bad.json", JSON)), BAD, "key-duplicate", ".png, .gif"
    ),
    "interleaved members": (
        members(("bad.png", PICTURE), *sample("other", 3), ("bad.json", JSON)), BAD, "interleaved", "between its"
    ),
    "no picture": (members(("bad.json", JSON)), BAD, "picture-missing", "has .json, but no picture"),
    "no json": (members(("bad.png", PICTURE)), BAD, "caption-missing", "has .png, but no caption in .json or .txt"),
    "json that is none": (
        members(("bad.png", PICTURE), ("bad.json", b"{")), BAD, "caption-unreadable", ".json that is not JSON",
    ),
    "json too deep": (
        members(("bad.png", PICTURE), ("bad.json", b"[" * 10**5)), BAD, "caption-unreadable", ".json that is not JSON",
    ),
    "json without a prompt": (
        members(("bad.png", PICTURE), ("bad.json", b"[]")), BAD, "caption-empty", "has an empty caption"
    ),
    "shard cut in a sample": (as_shard(hostile.cut_inside(b"lost.png")), f"{SHARD}/lost", "shard-truncated", "lacks"),
    "shard cut between members": (as_shard(hostile.cut_behind(b"lost.json")), SHARD, "shard-truncated", "end mark"),
    "shard cut between samples": (as_shard(hostile.cut_behind(b"lost.png")), SHARD, "shard-truncated", "end mark"),
    "broken header": (as_shard(hostile.broken_header()), SHARD, "shard-corrupt", "what follows is lost"),
    "two tars in a file": (
        as_shard(tar(*sample("good", 1)) + tar(*sample("lost", 2))), SHARD, "shard-corrupt", "goes on after its end"
    ),
    "a compressed shard": (as_shard(hostile.compressed()), SHARD, "shard-corrupt", "is no tar"),
    "an empty shard": (as_shard(b""), SHARD, "shard-truncated", "ends in a sample"),
    # sets
    "altered picture": (hostile.altered, BAD, "altered", "SHA-256 differs"),
    "another place": (with_rows(lambda row: row.update(offset=7)), BAD, "altered", "does not lie where index.parquet"),
    "a shard outside": (
        with_rows(lambda row: row.update(shard="../x.tar")), "../x.tar/bad", "member-outside", "no shard of the set"
    ),
    "a shard that is gone": (hostile.without_shard, GOOD, "shard-missing", "'shard-00000.tar' is not there"),
    "a sample that is gone": (hostile.lost, BAD, "picture-missing", "listed in index.parquet, but not in the shard"),
    "an unlisted sample": (hostile.unlisted, BAD, "unlisted", "is not listed"),
}  # fmt: skip
LOST = {"a compressed shard", "an empty shard", "a shard that is gone"}


def snapshot(folder: Path) -> dict[str, str]:
    """Every name below `folder`, with the hash of what is a file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in folder.rglob("*")
    }


def findings(out: Path) -> list[dict[str, str]]:
    lines = [(out / name).read_text().splitlines() for name in (report.QUARANTINE, report.REMARKS)]
    return [json.loads(line) for part in lines for line in part]


def check(path: Path, out: Path, **limits: int) -> list[dict[str, str]]:
    for _ in run.check(open_source(path), str(path), out, Limits(**limits)):
        pass
    return findings(out)


def test_there_are_many_kinds_of_every_reason_that_is_broken():
    assert len(KINDS) >= 20
    assert {reason for reason, row in REASONS.items() if row.broken} <= {kind[2] for kind in KINDS.values()}


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_survived_and_named(tmp_path, kind):
    make, name, reason, sentence = KINDS[kind]
    source = tmp_path / "home" / "deep" / "set"
    source.mkdir(parents=True)
    make(source)
    before = snapshot(tmp_path)
    found = check(source, tmp_path / "out")
    mine = [line for line in found if (line["sample"], line["reason"]) == (name, reason)]
    assert len(mine) == 1, found
    assert sentence in mine[0]["told"]
    after = {path: digest for path, digest in snapshot(tmp_path).items() if path.split("/")[0] != "out"}
    assert after == before
    told = report.read_report(tmp_path / "out")
    assert told["broken"] == len({line["sample"] for line in found if REASONS[line["reason"]].broken})
    assert bool(told["broken"]) == REASONS[reason].broken
    if kind not in LOST:
        assert told["samples"] > told["broken"]


def test_pickles_are_never_loaded(tmp_path):
    trap = pickle.dumps(hostile.Trap(tmp_path / "sprung"))
    kinds = ("pickle", "pkl", "pyd", "pt", "pth", "ckpt", "bin", "npy")
    source = tmp_path / "set"
    source.mkdir()
    members(("bad.png", PICTURE), ("bad.json", JSON), *((f"bad.{kind}", trap) for kind in kinds))(source)
    found = check(source, tmp_path / "out")
    assert [line["told"] for line in found] == [f"has a member .{kind}, which is never loaded" for kind in kinds]
    assert not (tmp_path / "sprung").exists()
    assert report.read_report(tmp_path / "out")["broken"] == 0


def test_an_interleaved_sample_is_read_as_a_whole(tmp_path):
    (tmp_path / "a.tar").write_bytes(tar(("a.png", PICTURE), *sample("b", 3), ("a.json", JSON)))
    listing = tars.scan(tmp_path / "a.tar")
    assert {key: sorted(found) for key, found in listing.samples.items()} == {key: ["json", "png"] for key in "ab"}
    assert listing.samples["a"]["png"].read() == PICTURE
    assert listing.samples["a"]["json"].read() == JSON


def test_an_archive_of_100k_members(tmp_path):
    path, headers = tmp_path / "many.tar", []
    for kind in ("png", "json"):
        header = tarfile.TarInfo(f"000000.{kind}").tobuf(tarfile.USTAR_FORMAT)
        headers.append((header, int(header[148:154], 8)))
    with path.open("wb") as file:
        for number in range(50_000):
            name = b"%06d" % number
            for header, checksum in headers:  # that of the zeros, and what the digits add
                file.write(name + header[6:148] + b"%06o" % (checksum + sum(name) - 6 * 48) + header[154:])
        file.write(bytes(1024))
    listing = tars.scan(path)
    assert (len(listing.samples), listing.flaws) == (50_000, [])
    assert sorted(listing.samples["049999"]) == ["json", "png"]


def test_a_bomb_is_one_pixel_over_the_limit(monkeypatch):
    assert pictures.PIXELS == 64 * 10**6
    monkeypatch.setattr(pictures, "PIXELS", 96 * 96)
    assert pictures.read(PICTURE).size == (96, 96)
    with pytest.raises(Refused, match="a decompression bomb of 97 x 97 pixels, over 64 megapixels"):
        pictures.read(encoded("PNG", noise(side=97)))


@pytest.mark.parametrize("names", ['["../x.tar"]', '{"/etc/passwd": {}}', '{"a/b.tar": {}}', "7", '{"a.tar"'])
def test_a_manifest_that_leads_out_of_the_set_or_is_damaged(tmp_path, names):
    (tmp_path / MANIFEST).write_text(f'{{"shards": {names}}}')
    with pytest.raises(DataError, match=r"is damaged|which is no name of a shard"):
        read_manifest(tmp_path)
