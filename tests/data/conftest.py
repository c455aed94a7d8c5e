"""A tiny SANA and a small set of scenes, each made once; every test has a cache of its own."""

from __future__ import annotations

import pytest
from synth_sets import PROMPTS
from tiny_runs import TINY, once, own_cache  # noqa: F401

from apex_cli import build, registry
from apex_cli.data.shapes import ShapesConfig, ShapesData
from apex_cli.drafts import Flag
from apex_cli.recipe import load_synth


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch, own_cache):  # noqa: F811
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def sana():
    kind = registry.resolve("backbone", "sana")
    return kind(kind.Config(tiny=TINY, max_tokens=64))


@pytest.fixture(scope="session")
def scenes():
    return ShapesData(ShapesConfig(size=23))


@pytest.fixture(scope="session")
def teacher():
    return build.load_model("assets:shapes_teacher")


@pytest.fixture
def order(teacher):
    """10 samples in 3 shards, batches of 3."""

    def make(**changes):
        config = {"images_per_prompt": 2, "batch": 3, "shard_size": 4, **changes}
        flags = [Flag("--set", f"synth.{name}", value) for name, value in config.items() if name != "scorer"]
        flags += [Flag("--set", "scorer.name", config["scorer"])] if "scorer" in config else []
        return build.order(load_synth(None, flags), teacher, teacher.sample.with_nfe(2), PROMPTS)

    return make
