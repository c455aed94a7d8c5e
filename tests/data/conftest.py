"""A tiny SANA and a small set of scenes, each made once; every test has a cache of its own."""

from __future__ import annotations

import pytest
from tiny_runs import TINY, once, own_cache  # noqa: F401

from apex_cli import registry
from apex_cli.data.shapes import ShapesConfig, ShapesData


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
