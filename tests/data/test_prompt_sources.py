"""Several sources as one list: repetitions, near ones, what is held out, and what the report says of it."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_prompt_files import DISTINCT, write

from apex_cli.data.posters import LANGUAGES, OCCASIONS, poster, posters
from apex_cli.data.prompt_report import report, script
from apex_cli.data.prompt_sources import PromptsConfig, first, gather, lines
from apex_cli.data.shapes import ShapesConfig, ShapesData
from apex_cli.data.similarity import HeldOut, jaccard, near_repetitions, runs, words
from apex_cli.errors import DataError, SetupError, UsageError

BASE = "a tall old lighthouse on a rocky coast under a dark sky with many stars and one ship far out at sea"


def config(*sources, **more):
    return PromptsConfig(sources=[{"source": s} if isinstance(s, str) else s for s in sources], **more)


def texts(tmp_path, *rows, name="a.txt"):
    (tmp_path / name).write_text("\n".join(rows), encoding="utf-8")
    return str(tmp_path / name)


def test_sources_are_joined_and_limited(tmp_path):
    table = write(tmp_path / "prompts.csv", column="words")
    sources = [{"source": table, "column": "words", "limit": 2}, {"source": "shapes:iid", "limit": 3}, "posters:7"]
    found = gather(config(*sources, limit=6), {})
    assert found.texts == [*DISTINCT[:2], *first(lines("shapes:iid"), 3)[0], poster(7, 0)]
    assert found.read == {table: 2, "shapes:iid": 3, "posters:7": 6}
    both = gather(config(texts(tmp_path, "a", "b"), texts(tmp_path, "b", "", "c", name="b.txt")), {})
    assert (both.texts, both.repeated) == (["a", "b", "c"], 2)


def test_what_cannot_be_gathered(tmp_path):
    with pytest.raises(UsageError, match="has no end"):
        gather(config("posters:0"), {})
    with pytest.raises(UsageError, match="has no seed"):
        gather(config("posters:x", limit=1), {})
    with pytest.raises(DataError, match="holds no prompt"):
        gather(config(texts(tmp_path, "", " ")), {})
    with pytest.raises(DataError, match="Every prompt is held out"):
        gather(config(texts(tmp_path, "a cat")), {"own": ["A cat."]})


def test_a_data_set_of_the_hub(tmp_path):
    """`datasets` reads a folder as it reads the hub; a name that is not there and no network are one sentence."""
    write(tmp_path / "set.parquet", column="words")
    assert first(lines(f"hub:{tmp_path}@train", "words"), None)[0] == DISTINCT
    with pytest.raises(DataError, match="has no column prompt or text or caption; it has id, words"):
        list(lines(f"hub:{tmp_path}"))
    with pytest.raises(SetupError, match="'owner/nothing' could not be read") as caught:
        list(lines("hub:owner/nothing"))
    assert "HF_HUB_OFFLINE" in caught.value.remedy


def test_posters_are_a_function_of_seed_and_index():
    some = list(islice(posters(3), 200))
    assert some == [poster(3, i) for i in range(200)]
    assert some != [poster(4, i) for i in range(200)]
    assert len(set(some)) > 190
    for language in LANGUAGES:
        assert any(f"in {language}." in text for text in some)
    titles = {title for row in OCCASIONS.values() for title in row}
    assert all(any(f'"{title}"' in text for title in titles) for text in some)
    assert all(len(row) == len(LANGUAGES) for row in OCCASIONS.values())


def test_words_and_scripts():
    assert words("  A red-hot  CUBE!") == ("a", "red", "hot", "cube")
    assert words("红色的cube") == ("红", "色", "的", "cube")
    assert [script(text) for text in ("a cat", "кошка", "ねこが好き", "قطة", "12!")] == [
        "latin", "cyrillic", "hiragana", "arabic", "none"
    ]  # fmt: skip


def test_near_repetitions_are_those_of_all_pairs():
    """Candidates come from hashes; held against the Jaccard index of every pair."""
    varied = [BASE.replace(word, "new") for word in ("tall", "sea", "dark", "many")]
    prompts = [BASE, *(poster(0, i) for i in range(150)), *varied, BASE.upper(), "a cat", "A cat."]
    found = near_repetitions(prompts, 0.8)
    sets = [runs(words(prompt)) for prompt in prompts]
    every = {j for j in range(len(prompts)) if any(jaccard(sets[i], sets[j]) >= 0.8 for i in range(j))}
    assert set(found) == every
    assert {151, 152, 155, 157} <= every
    assert all(jaccard(sets[i], sets[j]) >= 0.8 and i < j for j, i in found.items())


@settings(deadline=None)
@given(st.lists(st.text("ab ", max_size=12), max_size=12))
def test_near_repetitions_of_anything(prompts):
    found = near_repetitions(prompts, 1.0)
    assert all(runs(words(prompts[i])) == runs(words(prompts[j])) for j, i in found.items())


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (BASE.title() + ".", ("exact", 0)),
        (BASE.replace("tall", "high"), ("near", 0)),
        (f"A painting of {BASE}, {poster(0, 1)}", ("contains", 0)),
        ("two dogs", ("exact", 1)),
        ("a photo of two dogs", None),
        ("a tall old house on a rocky hill", None),
    ],
)
def test_what_is_held_out_is_found(prompt, expected):
    assert HeldOut([BASE, "Two dogs"], 0.7).match(prompt) == expected


def test_the_report_counts_what_was_left_out(tmp_path):
    rows = (BASE, BASE.replace("sea", "night"), "a cat on a mat in the sun", "a dog", "ein Hund, кот")
    read = config(texts(tmp_path, *rows), near_repetitions=0.8)
    facts = report(gather(read, {"own": ["A cat on a mat"], "other": ["nothing of this"]}))
    assert (facts["prompts"], facts["near_repetitions"], facts["mixed_scripts"]) == (3, 1, 1)
    assert facts["lengths"]["words"] == pytest.approx({"least": 2, "median": 3, "mean": 9, "p95": 20.1, "most": 22})
    own = facts["contamination"]["own"]
    assert own["examples"] == [["contains", "a cat on a mat in the sun", "A cat on a mat"]]
    assert (own["prompts"], own["met"], own["of"]) == (1, 1, 1)
    assert facts["contamination"]["other"]["prompts"] == 0
    kept = gather(read.model_copy(update={"near_repetitions": None}), {}, count_near=True)
    assert (len(kept.texts), kept.near) == (5, 1)


def test_captions_come_as_training_draws_them():
    config = PromptsConfig(sources=({"source": "captions:train", "limit": 300},), keep_repetitions=True)
    texts = ShapesData(ShapesConfig()).prompts(range(300))
    assert gather(config, {}).texts == texts
    assert len(set(texts)) < 300
    once = gather(config.model_copy(update={"keep_repetitions": False}), {})
    assert (len(once.texts), len(set(once.texts))) == (300, 300)
    with pytest.raises(UsageError, match="has no end"):
        gather(PromptsConfig(sources=({"source": "captions:train"},)), {})
