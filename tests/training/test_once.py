"""What is read to be hashed is read by one rank."""

from __future__ import annotations

from functools import cached_property
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from tiny_runs import TINY

from apex_cli import registry
from apex_cli.data import identity
from apex_cli.data.latents import Latents
from apex_cli.data.prompts import Prompts
from apex_cli.data.shapes import ShapesConfig, ShapesData
from apex_cli.training import once as once_module
from apex_cli.training.once import Once

CPU = torch.device("cpu")


class Unread:
    """A data set that must not be read here."""

    @cached_property
    def fingerprint(self) -> str:
        raise AssertionError("read")


class Sources:
    def __init__(self, *sources: Any):
        self.sources = sources

    @property
    def fingerprint(self) -> str:
        return "+".join(source.fingerprint for source in self.sources)


@pytest.fixture
def told(monkeypatch) -> list[Any]:
    """What the main process will tell this rank, one after the other."""
    answers: list[Any] = []

    def broadcast(given: list[Any]) -> list[Any]:
        assert given == [None]
        return [answers.pop(0)]

    monkeypatch.setattr(once_module, "broadcast_object_list", broadcast)
    return answers


@pytest.fixture
def second() -> Once:
    """As the second of two ranks has it."""
    return Once(cast(Any, SimpleNamespace(is_main_process=False, num_processes=2)))


def test_another_rank_reads_no_data(told, second):
    told += ["a", "b", "c"]
    data, mixture = Unread(), Sources(Unread(), Unread())
    assert second.fingerprint(data) == data.fingerprint == "a"
    assert second.fingerprint(mixture) == mixture.fingerprint == "b+c"
    assert told == []


def test_another_rank_hashes_no_encoder(told, second, monkeypatch):
    kind = registry.resolve("backbone", "sana")
    model, data = kind(kind.Config(tiny=TINY)), ShapesData(ShapesConfig(size=8))
    mine = Latents(model, data, CPU, {}).store.key, Prompts(model, [], CPU, {}).store.key
    told += [identity.module(model.autoencoder), identity.reader(model)]
    monkeypatch.setattr(identity, "digest", None)
    theirs = Latents(model, data, CPU, {}, second).store.key, Prompts(model, [], CPU, {}, None, second).store.key
    assert theirs == mine


def test_one_process_asks_nobody(monkeypatch):
    monkeypatch.setattr(once_module, "broadcast_object_list", None)
    assert Once(cast(Any, SimpleNamespace(is_main_process=True, num_processes=1)))(lambda: 3) == 3
