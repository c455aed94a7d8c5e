"""Teacher pairs: the same bytes whoever makes them, readable by everybody."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import runpy
import subprocess
import sys
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import webdataset
from PIL import Image
from pyarrow import parquet
from safetensors.torch import load_file
from synth_sets import PROMPTS, hashes, run

from apex_cli import app, build, registry
from apex_cli.data import shards
from apex_cli.data.shard_set import ShardSet, ShardSetConfig
from apex_cli.data.store import draft
from apex_cli.data.synth import synthesise
from apex_cli.errors import DataError, UsageError
from apex_cli.evaluation.scorers import ShapesScorer
from apex_cli.generation import CountedVelocity, Request, generate, to_pixels
from apex_cli.samplers import euler

ROOT = Path(__file__).resolve().parents[2]
TEXT: dict[str, bool] = {"capture_output": True, "text": True, "check": False}


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
    leave_as_a_kill_does(cut)
    run(order(), cut)
    assert hashes(made) == hashes(shared) == hashes(cut)
    assert not list(cut.glob(".*"))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sigkill_and_three_workers_at_once(tmp_path):
    asked = ["--kills", "1", "--prompts", "24", "--out", tmp_path]
    done = subprocess.run([sys.executable, ROOT / "scripts" / "reproduce-synth-kill", *asked], **TEXT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 kills, and 3 workers against one: 9 files are the same to the byte" in done.stdout
    assert hashes(tmp_path / "one") == hashes(tmp_path / "killed") == hashes(tmp_path / "shared")


def test_a_kill_script_tells_what_differs(order, made, tmp_path):
    script = runpy.run_path(str(ROOT / "scripts" / "reproduce-synth-kill"))
    run(order(seed=1), tmp_path / "other")
    with pytest.raises(SystemExit, match="not the same"):
        script["compare"](made, tmp_path / "other", script["hashes"](script["PACKAGE"]))
    with pytest.raises(SystemExit, match="edited meanwhile"):
        script["compare"](made, tmp_path / "other", {})
    script["compare"](made, made, {})


def leave_as_a_kill_does(folder):
    """Half-written files of a process that is gone, and the staged files of a shard that is packed already."""
    gone = subprocess.Popen(["true"])
    gone.wait()
    for place in (".shard-00001/000000.tar", ".shard-00000/000000.tar", "shard-00000.tar", "index.parquet"):
        half = draft(folder / place)
        half.parent.mkdir(exist_ok=True)
        half.with_name(half.name.replace(f".{os.getpid()}.", f".{gone.pid}.")).write_bytes(b"half")


def test_what_a_living_worker_writes_is_left_alone(order, made):
    own = draft(made / "shard-00000.tar")
    own.write_bytes(b"half")
    run(order(), made)
    assert own.exists()


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
    run(order(image=image, store=["latents"]), tmp_path)
    with tarfile.open(tmp_path / "shard-00002.tar") as tar:
        names = tar.getnames()
        assert names == [f"{k:08d}.{end}" for k in (8, 9) for end in sorted((image, "json", "safetensors"))]
        assert Image.open(io.BytesIO(tar.extractfile(f"00000008.{image}").read())).size == (64, 64)
        tar.extract("00000008.safetensors", tmp_path, filter="data")
    (latent,) = load_file(tmp_path / "00000008.safetensors").values()
    assert latent.shape == teacher.backbone.latent_shape


@pytest.fixture
def chosen(order, tmp_path):
    run(order(best_of=4, scorer="shapes"), tmp_path / "chosen")
    return tmp_path / "chosen"


def test_the_best_of_n_are_kept(order, teacher, chosen):
    index = parquet.read_table(chosen / shards.INDEX).to_pylist()
    assert [row["prompt"] for row in index] == [prompt for prompt in PROMPTS for _ in range(2)]
    scorer, sample = ShapesScorer(ShapesScorer.Config()), teacher.sample.with_nfe(2)
    for p in (0, 2):
        candidates = list(generate(teacher.backbone, sample, [Request(PROMPTS[p], 0, 4 * p + c) for c in range(4)]))
        scores = scorer.score(candidates)
        best = sorted(sorted(range(4), key=lambda c: -scores[c])[:2])
        rows = index[2 * p : 2 * p + 2]
        assert [row["index"] for row in rows] == [4 * p + c for c in best]
        assert [row["scores"]["shapes"] for row in rows] == pytest.approx([scores[c] for c in best], abs=0.05)
    assert shards.read_manifest(chosen)["scorer"]["name"] == "shapes"


def test_workers_choose_alike(order, chosen, tmp_path):
    for part in (2, 0, 1):
        run(order(best_of=4, scorer="shapes"), tmp_path / "three", part, 3)
    assert hashes(chosen) == hashes(tmp_path / "three")


def test_settings_of_a_choice_that_cannot_be(order, tmp_path):
    with pytest.raises(UsageError, match="needs a scorer"):
        run(order(best_of=4), tmp_path)
    with pytest.raises(UsageError, match="cannot keep 2"):
        order(best_of=1)
    with pytest.raises(UsageError, match="must be a multiple of 2"):
        order(best_of=4, shard_size=3)


def test_another_set_is_refused_and_damage_is_named(order, made):
    with pytest.raises(UsageError, match="differs in synth"):
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
    assert "--image: synth.image: needs" in capsys.readouterr().err


def test_a_recipe_and_what_stands_over_it(tmp_path, capsys):
    (tmp_path / "mine.toml").write_text('[prompts]\nlimit = 3\n[sample]\nsampler = "euler"\nnfe = 1\n[synth]\nseed = 5')
    arguments = ["synth-data", str(tmp_path / "mine.toml"), "--limit", "2", "--set", "synth.shard_size=1"]
    assert app.main([*arguments, "--out", str(tmp_path / "set"), "--json"]) == 0
    manifest = shards.read_manifest(tmp_path / "set")
    assert manifest["samples"] == len(manifest["shards"]) == 2
    assert (manifest["sample"]["nfe"], manifest["synth"]["seed"]) == (1, 5)
    assert manifest["recipe"]["prompts"]["limit"] == 2
    for name, told in {"shapes_full": "has no section [synth]", "synth_shape": "Did you mean 'synth_shapes'?"}.items():
        assert app.main(["synth-data", name]) == 2
        assert told in capsys.readouterr().err
    assert app.main(["train", "synth_shapes"]) == 2
    assert "is a recipe for `apex synth-data`" in capsys.readouterr().err


def test_a_stock_pipeline_draws(tmp_path):
    tiny = {"width": 32, "layers": 1, "heads": 2, "text_width": 32, "text_layers": 1, "vae_width": 4}
    kind = registry.resolve("backbone", "qwen_image")
    kind(kind.Config(tiny=tiny)).save(tmp_path / "pipeline")
    (tmp_path / "prompts.txt").write_text("a red cube\na ring\n")
    changes = [f"backbone.path={tmp_path / 'pipeline'}", "backbone.resolution=64", "backbone.max_tokens=64",
               "sample.nfe=4", "prompts.near_repetitions=1.0"]  # fmt: skip
    flags = ["--prompts", str(tmp_path / "prompts.txt"), "--out", str(tmp_path / "set")]
    sets = [word for change in changes for word in ("--set", change)]
    assert app.main(["synth-data", "synth_qwen_image", *flags, *sets]) == 0
    manifest = shards.read_manifest(tmp_path / "set")
    assert (manifest["samples"], manifest["sample"]["guidance_rescale"]) == (2, "patch")
    assert len(manifest["teacher"]["weights"]) == 64


def test_prompts_are_reported_without_a_teacher(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(build, "painter", None)
    rows = [
        "a photo of a bench",
        "A photo of a bench!",
        "a cat",
        "a cat",
        "at night a photo of a bench by the sea",
        "紅い立方体",
    ]
    (tmp_path / "prompts.txt").write_text("\n".join(rows))
    asked = ["synth-data", "--prompts", str(tmp_path / "prompts.txt"), "--held-out", "geneval", "--report-prompts"]
    assert app.main([*asked, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["prompts"], facts["empty_or_repeated"], facts["near_repetitions"]) == (2, 1, 1)
    found = facts["contamination"]["geneval"]
    assert [found[name] for name in ("prompts", "exact", "near", "contains", "met", "of")] == [3, 2, 0, 1, 1, 553]
    assert facts["scripts"] == {"latin": 1, "cjk": 1}
    assert app.main(asked) == 0
    assert "1 of 553" in capsys.readouterr().out
