"""What a teacher left beside its pictures, and runs that do not encode it again."""

from __future__ import annotations

import json

import tomli_w
import torch
from pyarrow import parquet
from synth_sets import PROMPTS, run, stored
from tiny_runs import apex

from apex_cli.data import identity, shards
from apex_cli.data.latents import Latents
from apex_cli.data.mixture import Mixture
from apex_cli.data.screen import Kept, look
from apex_cli.data.shapes import ShapesConfig, ShapesData
from apex_cli.data.shard_set import ShardSet, ShardSetConfig
from apex_cli.generation import Request, generate, generator


def test_what_the_teacher_computed_can_be_stored(order, teacher, tmp_path):
    run(order(store=["latents", "noise", "text"]), tmp_path)
    index = parquet.read_table(tmp_path / shards.INDEX).to_pylist()
    for row in index[::4]:
        found = stored(tmp_path, row)
        expected = torch.randn(teacher.backbone.latent_shape, generator=generator(0, row["index"]))
        assert torch.equal(found["noise"], expected)
        cond = teacher.backbone.encode_prompts([row["prompt"]])
        torch.testing.assert_close(found["text"], cond.tokens[0][cond.mask[0]], atol=1e-4, rtol=1e-4)
        (own,) = generate(teacher.backbone, teacher.sample.with_nfe(2), [Request(row["prompt"], 0, row["index"])])
        torch.testing.assert_close(found["latent"], own.latent, atol=1e-4, rtol=1e-4)


def test_stored_latents_are_trained_on_unencoded(order, teacher, tmp_path, monkeypatch):
    run(order(store=["latents"]), tmp_path / "set")
    index = parquet.read_table(tmp_path / "set" / shards.INDEX).to_pylist()
    data = ShardSet(ShardSetConfig(path=str(tmp_path / "set")), 64)
    with monkeypatch.context() as patch:
        patch.setattr(type(teacher.backbone), "encode_images", None)
        kept = latents(teacher.backbone, data)
    for k in (0, 9):
        assert torch.equal(kept[torch.tensor([k])][0], stored(tmp_path / "set", index[k])["latent"])


def test_a_run_encodes_nothing_that_its_teacher_left(order, teacher, tmp_path, monkeypatch):
    run(order(store=["latents", "text"]), tmp_path / "set")
    data = {"name": "shards", "path": str(tmp_path / "set")}
    recipe = tmp_path / "mine.toml"
    backbone = {"name": "sana", "path": "assets:shapes_teacher", "max_tokens": 64}
    recipe.write_text(tomli_w.dumps({
        "backbone": backbone, "objective": {"name": "fm", "caption_dropout": 0.5}, "data": data,
        "train": {"steps": 5, "batch": 4, "sample_prompts": ["two cones"], "sample_seeds": 1},
    }))  # fmt: skip
    read, kind = [], type(teacher.backbone)
    encode = kind.encode_prompts
    monkeypatch.setattr(kind, "encode_images", None)
    monkeypatch.setattr(kind, "encode_prompts", lambda self, prompts: read.extend(prompts) or encode(self, prompts))
    assert apex("train", recipe, "--out", tmp_path / "run") == 0
    assert "" in read
    assert not set(PROMPTS) & set(read)  # the grid at the end asks for its own
    (stored_prompts,) = (tmp_path / "cache" / "prompts").glob("*/manifest.json")
    assert json.loads(stored_prompts.read_text())["rows"] == 1 + len(PROMPTS)


def test_stored_texts_are_those_of_the_first_sample_that_is_left(order, teacher, tmp_path):
    run(order(store=["text"]), tmp_path / "set")
    index = parquet.read_table(tmp_path / "set" / shards.INDEX).to_pylist()
    data = ShardSet(ShardSetConfig(path=str(tmp_path / "set")), 64)
    own = identity.encoders(teacher.backbone, ["text"])["text"]
    assert data.stored_texts("another") is None
    for source, row in ((data, 2), (Kept(data, [2]), 3)):
        find = source.stored_texts(own)
        assert find("no prompt of the set") is None
        cond = find(PROMPTS[1])
        assert torch.equal(cond.tokens[0], stored(tmp_path / "set", index[row])["text"])
        assert cond.mask.all()
    both = Mixture(None, [ShapesData(ShapesConfig(size=2)), data]).stored_texts(own)
    assert torch.equal(both(PROMPTS[4]).tokens, data.stored_texts(own)(PROMPTS[4]).tokens)
    assert both("no prompt of the set") is None


def test_altered_extras_are_a_broken_sample(order, tmp_path):
    run(order(store=["latents"]), tmp_path / "set")
    row = parquet.read_table(tmp_path / "set" / shards.INDEX).to_pylist()[5]
    with (tmp_path / "set" / row["shard"]).open("r+b") as file:
        file.seek(row["extras_offset"] + row["extras_size"] - 1)
        file.write(b"!")
    data = ShardSet(ShardSetConfig(path=str(tmp_path / "set")), 64)
    (found,) = [finding for finding in look(data, range(10)) if finding]
    assert (found["row"], found["reason"]) == (5, "altered")


def test_latents_of_another_autoencoder_or_size_are_encoded(order, teacher, tmp_path):
    run(order(store=["latents"]), tmp_path / "set")
    data = ShardSet(ShardSetConfig(path=str(tmp_path / "set")), 64)
    assert data.stored_latents("another", teacher.backbone.latent_shape) is None
    own = identity.encoders(teacher.backbone, ["latents"])["latents"]
    assert data.stored_latents(own, (8, 4, 4)) is None
    assert data.stored_latents(own, teacher.backbone.latent_shape) is not None


def latents(backbone, data):
    kept = Latents(backbone, data, torch.device("cpu"), {})
    kept.store.begin()
    list(kept.encode(kept.missing()))
    kept.open()
    return kept
