"""Prompt embeddings on disk: one entry for each text, shared by all data sets, encoded once."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch

from apex_cli import registry
from apex_cli.data import identity, prompts
from apex_cli.data.prompts import Prompts
from apex_cli.errors import StorageError

CPU = torch.device("cpu")
TEXTS = ["a red cube", "two blue stars", "", "a photo of a green sphere above a red cube", "a red sphere"]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(prompts, "ROWS", 2)


def filled(sana, texts: Iterable[str], ranks: int = 1) -> tuple[Prompts, list[str]]:
    """A store with all of `texts`, and those that had to be encoded."""
    made = Prompts(sana, texts, CPU, {"model": "tiny"})
    made.store.begin()
    missing = made.missing()
    for rank in range(ranks):
        assert all(total == len(missing[rank::ranks]) for _, total in made.encode(missing[rank::ranks]))
    made.store.finish()
    made.open()
    return made, missing


def test_a_prompt_is_encoded_once_for_all_data_sets(sana):
    assert filled(sana, TEXTS)[1] == TEXTS
    assert filled(sana, TEXTS[::-1])[1] == []
    made, encoded = filled(sana, [*TEXTS[:3], "a red cubE", TEXTS[4]])
    assert encoded == ["a red cubE"]
    assert len(made.store.shards()) == 4
    with pytest.raises(KeyError):
        made[TEXTS[3]]


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_number_of_ranks_changes_no_bit(sana, ranks, tmp_path, monkeypatch):
    alone = filled(sana, TEXTS)[0]
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "other"))
    shared = filled(sana, TEXTS, ranks)[0]
    for text in TEXTS:
        assert torch.equal(shared[text].tokens, alone[text].tokens)


def test_a_killed_run_goes_on_with_the_missing_prompts(sana):
    made = Prompts(sana, TEXTS, CPU, {})
    made.store.begin()
    next(events := made.encode(TEXTS))
    next(events)
    events.close()
    next(Prompts(sana, TEXTS, CPU, {}).encode(TEXTS))  # killed before its first shard
    assert Prompts(sana, TEXTS, CPU, {}).missing() == TEXTS[2:]
    with pytest.raises(StorageError, match="3 prompts are not in"):
        made.open()
    assert filled(sana, TEXTS)[1] == TEXTS[2:]


def test_a_broken_shard_is_made_again(sana):
    made, _ = filled(sana, TEXTS)
    path = made.store.shards()[0]
    path.write_bytes(path.read_bytes()[:40])
    again, encoded = filled(sana, TEXTS)
    assert 0 < len(encoded) <= 2
    assert all(torch.equal(again[text].tokens, made[text].tokens) for text in TEXTS if text not in encoded)


def test_what_the_key_depends_on(sana):
    def key(backbone) -> str:
        return Prompts(backbone, [], CPU, {}).store.key

    first = key(sana)
    sana.encode_prompts(["a call sets how the tokenizer pads"])
    assert key(sana) == first
    assert key(sana) != Prompts(sana, [], torch.device("meta"), {}).store.key
    kind = registry.resolve("backbone", "sana")
    config, pipeline = sana.config, sana.pipeline
    assert key(kind(config)) == first
    assert key(kind(config.model_copy(update={"offload": True}))) == first  # layers of the transformer alone
    halves = {key(kind(config.model_copy(update={"dtype": dtype}))) for dtype in ("bf16", "fp8")}
    assert len(halves) == 1 and first not in halves  # in both the text encoder is in bf16
    sana.config = config.model_copy(update={"max_tokens": 8})
    assert key(sana) != first
    sana.config = config
    weight = next(sana.text_encoder.parameters())
    weight.data.view(-1)[0] += 1
    assert key(sana) != first
    weight.data.view(-1)[0] -= 1
    before = identity.tokenizer(pipeline.tokenizer)
    pipeline.tokenizer.add_tokens(["quux"])
    assert identity.tokenizer(pipeline.tokenizer) != before
