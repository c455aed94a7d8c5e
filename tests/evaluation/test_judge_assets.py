"""Assets are found in their order, compared with their hashes, and carried in an archive that is not believed."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from apex_cli.errors import DataError, SetupError
from apex_cli.evaluation import bundle
from apex_cli.evaluation.assets import Asset, File, weights_folder
from apex_cli.evaluation.catalog import ASSETS, EFFNET, INCEPTION, RAPIDOCR

CONTENT = b"weights" * 100
SHA = hashlib.sha256(CONTENT).hexdigest()
ASSET = Asset("toy", (File("toy.pth", len(CONTENT), SHA, also=("other.pth",)),), "MIT", "nowhere", "get toy", hub="a/b")
CATALOGUE = {"toy": ASSET}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "apex"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_places_are_looked_at_in_order(caches):
    assert ASSET.find() is None and ASSET.remedy == "get it with: apex eval prepare toy"
    places = [
        put(caches / "hub/models--a--b/snapshots/0f/toy.pth"),
        put(caches / "torch/hub/checkpoints/other.pth"),
        put(weights_folder() / "toy" / "toy.pth"),
    ]
    for path in reversed(places):
        assert ASSET.find() == path
        path.unlink()


def test_a_named_place_is_the_only_one(caches):
    put(weights_folder() / "toy" / "toy.pth")
    mine = put(caches / "mine.pth")
    assert ASSET.at(mine).find() == mine
    with pytest.raises(SetupError, match="lacks toy"):
        ASSET.at(caches / "nowhere").require()


def test_altered_weights_are_refused(caches):
    put(weights_folder() / "toy" / "toy.pth", CONTENT[:-1] + b"!")
    with pytest.raises(SetupError, match="is not the published toy"):
        ASSET.require().verify()


def test_shipped_weights_are_the_ones_that_the_catalogue_names():
    for asset in (EFFNET, RAPIDOCR):
        found = asset.require().verify()
        assert [path.stat().st_size for path in found.paths.values()] == [file.size for file in asset.files]


def test_the_hash_of_inception_begins_as_its_name_says():
    file = INCEPTION.files[0]
    assert file.sha256 and all(file.sha256.startswith(name[-12:-4]) for name in (file.name, *file.also))


def test_every_asset_says_how_to_get_it():
    for id, asset in ASSETS.items():
        assert asset.id == id and asset.licence and all(file.size > 0 for file in asset.files)
        assert asset.package or all(file.name in asset.command for file in asset.files)


def packed(caches: Path) -> Path:
    put(caches / "torch/hub/checkpoints/other.pth")
    list(bundle.pack(ASSET.places, caches / "bundle.tar"))
    (caches / "torch/hub/checkpoints/other.pth").unlink()
    return caches / "bundle.tar"


def test_an_archive_brings_files_to_another_machine(caches):
    archive = packed(caches)
    assert ASSET.find() is None
    *_, written = bundle.unpack(archive, CATALOGUE)
    assert written == ["weights/toy/other.pth"] and ASSET.require().verify().path.read_bytes() == CONTENT


def hostile(path: Path, rows: list[dict], members: list[tuple[tarfile.TarInfo, bytes]]) -> Path:
    with tarfile.open(path, "w") as tar:
        manifest = json.dumps({"files": rows}).encode()
        for info, content in [(tarfile.TarInfo("manifest.json"), manifest), *members]:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def row(**changes) -> dict:
    return {"place": "weights/toy/toy.pth", "size": len(CONTENT), "sha256": SHA} | changes


def member(name: str = "weights/toy/toy.pth", **changes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    for key, value in changes.items():
        setattr(info, key, value)
    return info


OTHER = b"x" * len(CONTENT)
HOSTILE = {
    "outside": ([row(place="weights/../../evil")], [(member("weights/../../evil"), CONTENT)]),
    "named outside": ([row(place="named/x.y/../../../evil")], [(member("named/x.y/../../../evil"), CONTENT)]),
    "named above": ([row(place="named/../evil")], [(member("named/../evil"), CONTENT)]),
    "a deep reference": ([row(place="stats/a/b/c.safetensors")], [(member("stats/a/b/c.safetensors"), CONTENT)]),
    "no reference": ([row(place="stats/a/b.pth")], [(member("stats/a/b.pth"), CONTENT)]),
    "another kind": ([row(place="runs/a/b")], [(member("runs/a/b"), CONTENT)]),
    "a weight nobody needs": ([row(place="weights/toy/b.pth")], [(member("weights/toy/b.pth"), CONTENT)]),
    "unlisted": ([row()], [(member("weights/toy/more.pth"), CONTENT)]),
    "link": ([row(size=0)], [(member(type=tarfile.SYMTYPE, linkname="/etc/passwd"), b"")]),
    "other bytes, listed as such": ([row(sha256=hashlib.sha256(OTHER).hexdigest())], [(member(), OTHER)]),
    "other bytes": ([row()], [(member(), OTHER)]),
    "lacking": ([row()], []),
    "no manifest": ([{"name": "x"}], []),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_archive_leaves_nothing(name, caches):
    archive = hostile(caches / "bad.tar", *HOSTILE[name])
    with pytest.raises(DataError):
        list(bundle.unpack(archive, CATALOGUE))
    assert [path for path in caches.rglob("*") if path.is_file()] == [archive]


@pytest.mark.parametrize("size", [100, 600, 1100])
def test_a_cut_archive_is_told(size, caches):
    archive = packed(caches)
    archive.write_bytes(archive.read_bytes()[:size])
    with pytest.raises(DataError):
        list(bundle.unpack(archive, CATALOGUE))
    assert not list(weights_folder().rglob("*.pth"))


def test_an_archive_is_the_same_to_the_byte(caches):
    put(caches / "torch/hub/checkpoints/other.pth")
    for name in ("a.tar", "b.tar"):
        list(bundle.pack(ASSET.places, caches / name))
    assert (caches / "a.tar").read_bytes() == (caches / "b.tar").read_bytes()


def test_more_files_than_an_archive_may_list(caches, monkeypatch):
    archive = packed(caches)
    monkeypatch.setattr(bundle, "MANIFEST_BYTES", 100)
    with pytest.raises(DataError, match="1 files are too many for an archive"):
        list(bundle.pack({"named/dpg.folder/a": archive}, caches / "other.tar"))
    assert not list(caches.glob("*other.tar*"))


def test_what_a_user_names_is_packed_and_named_again(caches):
    put(caches / "bench/dpg.csv"), put(caches / "bench/prompts/1.txt"), put(caches / "bench/.git/x")
    places = {
        **bundle.named("dpg.folder", caches / "bench"),
        **bundle.named("dpg.judge.answers", put(caches / "a.txt")),
    }
    assert list(places) == [
        "named/dpg.folder/bench/dpg.csv",
        "named/dpg.folder/bench/prompts/1.txt",
        "named/dpg.judge.answers/a.txt",
    ]
    list(bundle.pack(places, caches / "bundle.tar"))
    *_, written = bundle.unpack(caches / "bundle.tar", CATALOGUE)
    found = bundle.settings(written)
    assert list(found) == ["dpg.folder", "dpg.judge.answers"]
    assert (found["dpg.folder"] / "prompts/1.txt").read_bytes() == found["dpg.judge.answers"].read_bytes() == CONTENT
