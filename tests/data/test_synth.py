"""Teacher pairs: the same bytes whoever makes them, readable by everybody."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import tarfile

import datasets
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file

from apex_cli import app, build
from apex_cli.data import shards
from apex_cli.data.shard_set import ShardSet, ShardSetConfig
from apex_cli.data.synth import SynthConfig, synthesise
from apex_cli.errors import DataError, UsageError
from apex_cli.generation import CountedVelocity, Request, generate, to_pixels
from apex_cli.samplers import euler

PROMPTS = ["a red cube", "a photo of a blue sphere and a green star", "a photo of three hearts", "a ring", "a star"]


@pytest.fixture(scope="module")
def teacher():
    return build.load_model("assets:shapes_teacher")


@pytest.fixture
def order(teacher):
    """10 samples in 3 shards, batches of 3."""

    def make(**changes):
        config = SynthConfig(images_per_prompt=2, batch=3, shard_size=4, **changes)
        return build.order(teacher, teacher.sample.with_nfe(2), config, PROMPTS)

    return make


def run(order, folder, part=0, parts=1):
    return [event.done for event in synthesise(order, folder, part, parts)]


def hashes(folder):
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture
def made(order, tmp_path):
    run(order(), tmp_path / "set")
    return tmp_path / "set"


def test_workers_and_interruptions_leave_the_same_bytes(order, made, tmp_path):
    shared = tmp_path / "shared"
    assert run(order(), shared, 1, 2)[-1] == 4
    assert not (shared / shards.MANIFEST).exists()
    assert run(order(), shared, 0, 2)[-1] == 6
    cut = tmp_path / "cut"
    for steps in (1, 2, 1, 3):  # each time the run ends after so many batches
        for _ in itertools.islice(synthesise(order(), cut), steps):
            pass
    half = next(cut.glob(".shard-*/*.json"), None)
    if half is not None:
        half.unlink()  # as a kill between picture and json leaves it
    run(order(), cut)
    assert hashes(made) == hashes(shared) == hashes(cut)


def test_a_finished_set_is_not_drawn_again(order, made, monkeypatch):
    monkeypatch.setattr("apex_cli.data.synth.generate", None)
    assert run(order(), made)[-1] == 10


def test_pictures_and_provenance_are_those_of_generate(order, teacher, made):
    index = parquet.read_table(made / shards.INDEX).to_pylist()
    assert [row["index"] for row in index] == list(range(10))
    assert [row["prompt"] for row in index] == [prompt for prompt in PROMPTS for _ in range(2)]
    for row in index:
        with (made / row["shard"]).open("rb") as file:
            file.seek(row["offset"])
            content = file.read(row["size"])
        assert hashlib.sha256(content).hexdigest() == row["sha256"]
        (own,) = generate(teacher.backbone, teacher.sample.with_nfe(2), [Request(row["prompt"], 0, row["index"])])
        difference = np.abs(np.asarray(Image.open(io.BytesIO(content))).astype(int) - own.pixels)
        assert difference.max() <= 1  # another batch may round another way
        assert (row["nfe"], row["sampler"], row["guidance"]) == (2, "euler", 2)
    manifest = shards.read_manifest(made)
    assert manifest["samples"] == 10
    assert {row["teacher"] for row in index} == {manifest["teacher"]["weights"]}


def test_a_set_is_training_data(made):
    index = parquet.read_table(made / shards.INDEX).to_pylist()
    data = ShardSet(ShardSetConfig(path=str(made)), 64)
    assert len(data) == 10
    assert data.prompts([3, 9]) == [PROMPTS[1], PROMPTS[4]]
    with (made / index[3]["shard"]).open("rb") as file:
        file.seek(index[3]["offset"])
        image = np.asarray(Image.open(io.BytesIO(file.read(index[3]["size"]))))
    assert np.array_equal(((data.pixels([3])[0].permute(1, 2, 0).numpy() + 1) * 127.5).round().astype(np.uint8), image)
    assert ShardSet(ShardSetConfig(path=str(made)), 32).pixels([0]).shape == (1, 3, 32, 32)
    assert ShardSet(ShardSetConfig(path=str(made)), 32).fingerprint != data.fingerprint
    (made / shards.MANIFEST).unlink()
    with pytest.raises(DataError, match="no finished set"):
        ShardSet(ShardSetConfig(path=str(made)), 64)


def test_datasets_and_webdataset_read_it(made):
    files = [str(path) for path in sorted(made.glob("*.tar"))]
    rows = datasets.load_dataset("webdataset", data_files=files, split="train", cache_dir=str(made / "hf"))
    assert [row["json"]["prompt"] for row in rows] == [prompt for prompt in PROMPTS for _ in range(2)]
    assert rows[0]["png"].size == (64, 64)
    samples = list(webdataset.WebDataset(files, shardshuffle=False).decode("rgb8"))
    assert [sample["json"]["index"] for sample in samples] == list(range(10))
    assert np.array_equal(samples[3]["png"], np.asarray(rows[3]["png"]))


def test_a_set_knows_the_noise_of_its_pictures(order, made, teacher):
    data, sample = ShardSet(ShardSetConfig(path=str(made)), 64), order().sample
    noise = data.noises([3, 9], teacher.backbone.latent_shape)
    cond = teacher.backbone.encode_prompts(data.prompts([3, 9]))
    velocity = CountedVelocity(teacher.backbone, sample.guidance, teacher.backbone.encode_prompts([""]))
    with torch.no_grad():
        latents = euler.sample(velocity, noise, sample.grid(), cond, [])
        pixels = to_pixels(teacher.backbone.decode(latents))
    drawn = ((data.pixels([3, 9]).permute(0, 2, 3, 1).numpy() + 1) * 127.5).round()
    assert np.abs(pixels - drawn).max() <= 1  # a batch of two, not of three


@pytest.mark.parametrize("image", ["webp", "jpg"])
def test_other_pictures_and_latents(order, tmp_path, teacher, image):
    run(order(image=image, latents=True), tmp_path)
    with tarfile.open(tmp_path / "shard-00002.tar") as tar:
        names = tar.getnames()
        assert names == [f"{k:08d}.{end}" for k in (8, 9) for end in sorted((image, "json", "safetensors"))]
        assert Image.open(io.BytesIO(tar.extractfile(f"00000008.{image}").read())).size == (64, 64)
        tar.extract("00000008.safetensors", tmp_path, filter="data")
    assert load_file(tmp_path / "00000008.safetensors")["latent"].shape == teacher.backbone.latent_shape


def test_another_set_is_refused_and_damage_is_named(order, made):
    with pytest.raises(UsageError, match="differs in synth_data"):
        run(order(seed=1), made)
    tar = made / "shard-00001.tar"
    tar.write_bytes(tar.read_bytes().replace(b"heart", b"beast"))
    (made / "shard-00000.tar").unlink()
    assert list(shards.verify(made)) == [("shard-00000.tar", "is missing"), ("shard-00001.tar", "is altered")]


def test_the_command(tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a red cube\na red cube\na shiny ball\n")
    arguments = ["synth-data", "--prompts", str(tmp_path / "prompts.txt"), "--nfe", "1", "--out", str(tmp_path / "set")]
    assert app.main([*arguments, "--shard-size", "1", "--shard", "2/2"]) == 0
    assert "other shards are still missing" in capsys.readouterr().err
    assert app.main([*arguments, "--shard-size", "1", "--shard", "1/2", "--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["samples"] == 2
    assert "1 empty or repeated" in captured.err
    assert "does not know" in captured.err
    assert app.main([*arguments, "--shard", "3/2"]) == 2
    assert "Write I/N" in capsys.readouterr().err
    assert app.main([*arguments, "--image", "tiff"]) == 2
    assert "--image" in capsys.readouterr().err
