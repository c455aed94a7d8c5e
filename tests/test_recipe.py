"""Reading recipes: every mistake is named with its line, all at once, and what is read is written back the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from apex_cli import recipe, registry
from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.mistakes import key_lines


class Net:
    class Config(Section):
        width: int = 64
        folder: Path | None = None


class Shift(Section):
    kind: Literal["scalar", "diagonal"] = "scalar"
    init: tuple[float, float] = (1.0, 0.5)


class Loss:
    class Config(Section):
        lambda_p: float = 0.5
        lambda_e: float = 0.5
        lambda_g: float = 0.0
        weighting: str
        condition_shift: Shift = Shift()


class Prompts:
    class Config(Section):
        split: Literal["train", "iid"] = "train"
        cached: bool = True


class Train(Section):
    steps: int = Field(100, gt=0)
    learning_rate: float = 1e-3
    batch_size: int = 8
    clip: float | Literal["off"] = 1.0
    tags: tuple[str, ...] = ()


class Sample(Section):
    sampler: str = "euler"
    nfe: int = 1


class Eval(Section):
    suite: str = "shapes"


TEXT = """\
# A sample recipe.
name = "sample"
description = "words"

[backbone]
name = "net"
width = 32

[objective]
name = "loss"
lambda_p = 1.0
lambda_e = 0.25
lambda_g = 1
weighting = "uniform"

[objective.condition_shift]
kind = "diagonal"
init = [
    -1.0,  # scale
    0.5,
]

[data]
name = "prompts"
split = "iid"
cached = false

[train]
steps = 10
learning_rate = 0.01
batch_size = 4
clip = "off"
tags = ["a"]

[sample]
sampler = "heun"
nfe = 2

[eval]
suite = "shapes"
"""


@pytest.fixture(autouse=True, scope="module")
def rows():
    """Registry rows and settings of this test alone."""
    with pytest.MonkeyPatch.context() as patch:
        for kind, row in {"backbone": ("net", Net), "objective": ("loss", Loss), "data": ("prompts", Prompts)}.items():
            patch.setitem(registry.TABLE, kind, {row[0]: f"{__name__}:{row[1].__name__}", "other": "no:no"})
        for name, config in {"train": Train, "sample": Sample, "eval": Eval}.items():
            patch.setitem(recipe.SETTINGS, name, f"{__name__}:{config.__name__}")
        yield


def read(text: str = TEXT, *overrides: str) -> recipe.Recipe:
    return recipe.parse(text, "r.toml", overrides)


def complaint(text: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as caught:
        read(text, *overrides)
    assert caught.value.remedy
    return caught.value.message


def replaced(old: str, new: str) -> str:
    assert TEXT.count(old) == 1
    return TEXT.replace(old, new)


def test_sections_are_typed():
    r = read()
    assert (r.name, r.description) == ("sample", "words")
    assert r.backbone == recipe.Choice("net", Net.Config(width=32))
    assert r.objective.config.condition_shift.init == (-1.0, 0.5)
    assert r.objective.config.lambda_g == 1.0
    assert r.train.clip == "off"
    assert r.sample == Sample(sampler="heun", nfe=2)


def test_settings_may_be_absent_and_the_name_is_the_file():
    text = TEXT[: TEXT.index("[train]")].replace('name = "sample"\n', "")
    r = recipe.parse(text, "folder/short.toml")
    assert r.name == "short"
    assert r.train == Train()


def typos() -> list[tuple[int, str, str]]:
    """(line, key, key without one character) for every key and table name of the sample recipe."""
    found = []
    for number, line in enumerate(TEXT.splitlines(), 1):
        if match := re.match(r"\[?([\w.]+)(\]| =)", line):
            key = match[1]
            found += [(number, key, key[:i] + key[i + 1 :]) for i in range(len(key)) if key[i] != "."]
    return found


def test_every_typo_of_every_key_is_found_with_its_line_and_nearly_always_the_right_key():
    right = []
    for number, key, typo in typos():
        lines = TEXT.splitlines()
        lines[number - 1] = lines[number - 1].replace(key, typo, 1)
        message = complaint("\n".join(lines))
        assert f"r.toml:{number}: " in message, message
        ours = [part for part in message.splitlines() if f"r.toml:{number}: " in part]
        meant = next(a for a, b in zip(key.split("."), typo.split("."), strict=True) if a != b)
        right.append(f"Did you mean '{meant}'?" in ours[0])
    assert len(right) > 150
    assert sum(right) >= 0.95 * len(right)


def test_all_mistakes_at_once_in_the_order_of_the_file():
    text = replaced("width = 32", 'width = "32"').replace("lambda_e", "lamda_e").replace("steps = 10", "steps = 0")
    text = text.replace("nfe = 2", "nfe = 2\nguidence = 1.0") + "\n[evall]\n"
    assert complaint(text, "train.batch_size=big").splitlines() == [
        "6 mistakes in the recipe:",
        '  r.toml:7: backbone.width: needs a whole number, got the string "32"',
        "  r.toml:12: objective.lamda_e: unknown key. Did you mean 'lambda_e'?",
        "  r.toml:29: train.steps: must be greater than 0, got 0",
        "  r.toml:38: sample.guidence: unknown key. Known: nfe, sampler",
        "  r.toml:43: evall: unknown section. Did you mean 'eval'?",
        '  --set: train.batch_size: needs a whole number, got the string "big"',
    ]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("steps = 10", "steps = 1.5", "r.toml:29: train.steps: needs a whole number, got 1.5"),
        ("steps = 10", "steps = true", "r.toml:29: train.steps: needs a whole number, got true"),
        ("cached = false", 'cached = "no"', 'r.toml:26: data.cached: needs true or false, got the string "no"'),
        ('tags = ["a"]', 'tags = "a"', 'r.toml:33: train.tags: needs a list, got the string "a"; write ["a"]'),
        ('clip = "off"', 'clip = "of"', "needs a number or 'off', got the string \"of\". Did you mean 'off'?"),
        ('kind = "diagonal"', 'kind = "diag"', "needs 'scalar' or 'diagonal', got the string \"diag\". Did"),
        ("-1.0,  # scale", '"one",', 'r.toml:18: objective.condition_shift.init.0: needs a number, got'),
        ('weighting = "uniform"', "", "r.toml:9: objective.weighting: is missing"),
        ('name = "net"', 'name = "nt"', "there is no backbone called \"nt\". Did you mean 'net'? Known: net, other"),
        ('name = "net"', "name = 3", "r.toml:6: backbone.name: there is no backbone called 3. Known: net, other"),
        ('name = "net"', "", "r.toml:5: backbone.name: is missing; one of net, other"),
        ('name = "sample"', "name = 1", "r.toml:2: name: needs a string, got 1"),
        ('description = "words"', "eval = 1", "eval: needs a table, got 1; write [eval]"),
        ('description = "words"', "steps = 1", "r.toml:3: steps: unknown key. It is a key of [train]."),
        ("nfe = 2", "learning_rate = 2", "r.toml:37: sample.learning_rate: unknown key. It is a key of [train]."),
        ("steps = 10", "steps = ten", "r.toml:29: column 9: Invalid value."),
        ("steps = 10", "steps = 2020-01-01", 'needs a whole number, got'),
    ],
)  # fmt: skip
def test_what_is_wrong_in_plain_words(old, new, message):
    text = replaced(old, new)
    if new == "eval = 1":
        text = text[: text.index("[eval]")]
    if new == "steps = 1":
        text = text.replace("steps = 10\n", "")
    assert message in complaint(text)


def test_missing_section():
    text = TEXT[: TEXT.index("[data]")] + TEXT[TEXT.index("[train]") :]
    assert complaint(text) == "r.toml:1: data: the section [data] is missing"


def test_equally_near_keys_are_all_named():
    text = replaced("lambda_p = 1.0\nlambda_e = 0.25\nlambda_g = 1\n", "lambda_ = 1.0\n")
    assert "Did you mean 'lambda_e' or 'lambda_g' or 'lambda_p'?" in complaint(text)


def test_overrides():
    r = read(
        TEXT,
        "train.steps=7",
        "objective.condition_shift.kind=scalar",
        "data.split = 'train'",
        "name=mine",
        "train.tags=['b', 'c']",
    )
    assert (r.train.steps, r.objective.config.condition_shift.kind, r.data.config.split) == (7, "scalar", "train")
    assert r.name == "mine"
    assert r.train.tags == ("b", "c")
    assert read(TEXT[: TEXT.index("[train]")], "train.steps=7").train.steps == 7


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stps=7", "--set: train.stps: unknown key. Did you mean 'steps'?"),
        ("train.steps=lots", '--set: train.steps: needs a whole number, got the string "lots"'),
        ("train.steps", "--set: 'train.steps': write section.key=value"),
        ("train.steps.now=1", "--set: train.steps.now: 'steps' is a value, not a table"),
        ("backbone.name=nett", "--set: backbone.name: there is no backbone called \"nett\". Did you mean 'net'?"),
        ("trian.steps=1", "--set: trian: unknown section."),
    ],
)
def test_mistakes_in_overrides_name_their_place(override, message):
    assert message in complaint(TEXT, override)


def test_round_trip_and_fingerprint():
    r = read()
    again = recipe.parse(r.to_toml(), "elsewhere.toml")
    assert again == r
    assert again.fingerprint == r.fingerprint
    assert "None" not in r.to_toml()
    assert "folder" not in r.to_toml()
    assert read(TEXT, "name=x", "description=y").fingerprint == r.fingerprint
    assert read(TEXT, "train.steps=11").fingerprint != r.fingerprint
    assert read(TEXT, "backbone.folder=a/b").backbone.config.folder == Path("a/b")


@given(st.integers(1, 10**9), st.floats(allow_nan=False), st.lists(st.text(), max_size=3), st.text(max_size=8))
def test_any_value_survives_the_round_trip(steps, rate, tags, weighting):
    r = read()
    train = Train(steps=steps, learning_rate=rate, tags=tuple(tags))
    changed = recipe.Recipe(
        **vars(r) | {"train": train, "objective": recipe.Choice("loss", Loss.Config(weighting=weighting))}
    )
    assert recipe.parse(changed.to_toml(), "x.toml") == changed


def test_key_lines_of_every_toml_form():
    text = 'a.b = 1\n"c d" = """\n[x]\ny = 1\n"""\ne = { f = 1, g = 2 }\n\n'
    text += "[h]\n# no\ni = [\n  1, # ]\n]\n[h.j]\nk = 1\n[[l]]\nm = 1\n"
    assert key_lines(text) == {
        ("a",): 1,
        ("a", "b"): 1,
        ("c d",): 2,
        ("e",): 6,
        ("h",): 8,
        ("h", "i"): 10,
        ("h", "j"): 13,
        ("h", "j", "k"): 14,
        ("l",): 15,
        ("l", "m"): 16,
    }


def test_files_and_names(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "recipe_folder", lambda: tmp_path)
    (tmp_path / "good.toml").write_text(TEXT)
    assert recipe.load("good") == recipe.load(tmp_path / "good.toml") == read()
    assert recipe.header(tmp_path / "good.toml") == ["A sample recipe."]
    with pytest.raises(UsageError, match="Did you mean 'good'"):
        recipe.load("goud")
    with pytest.raises(UsageError, match="no recipe file"):
        recipe.load(tmp_path / "bad.toml")
    (tmp_path / "weights.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="not a text file"):
        recipe.load(tmp_path / "weights.bin")


def test_shipped_recipes_are_found_in_a_checkout():
    assert recipe.recipe_folder() == Path(recipe.__file__).parents[1] / "recipes"
