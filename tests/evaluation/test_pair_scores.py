"""Scores of picture and prompt on tiny random models of the real classes, and the arithmetic around them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from looking import look

from apex_cli.errors import SetupError
from apex_cli.evaluation.base import Item, Picture
from apex_cli.evaluation.clip import Clip, require_quick_gelu
from apex_cli.evaluation.clip_sana import ClipSana
from apex_cli.evaluation.ocr import Ocr, OcrConfig, Reading, agreement, asked, in_order, written
from apex_cli.evaluation.pairs import PairConfig
from apex_cli.evaluation.pickscore import PickScore
from apex_cli.torchvision_guard import import_torchvision

LONG = " ".join(["a red cube left of a blue ring"] * 20)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A tiny `CLIPModel` with OpenAI's activation and a tokenizer of letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    path = tmp_path_factory.mktemp("clip")
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    vocabulary = [*letters, *(c + "</w>" for c in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[])
    torch.manual_seed(0)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    tower |= {"hidden_act": "quick_gelu"}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**tower, "vocab_size": len(tokenizer), "max_position_embeddings": 77, **ends}
    vision = {**tower, "image_size": 28, "patch_size": 14}
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    for name, content in (("vocab.json", json.dumps(tokenizer.get_vocab())), ("merges.txt", "#version: 0.2\n")):
        if not (path / name).is_file():
            (path / name).write_text(content)
    return path


@pytest.fixture
def clip(folder) -> Clip:
    return Clip(folder)


def test_the_end_token_is_kept(clip):
    ids = clip.tokens([LONG]).input_ids[0]
    assert len(ids) == 77 and ids[-1] == clip.tokenizer.eos_token_id and ids[0] == clip.tokenizer.bos_token_id


def test_two_long_prompts_that_begin_apart_are_two(clip):
    pixels = torch.zeros(1, 3, 28, 28)
    scores = [float(clip(pixels, [prompt])) for prompt in (LONG, "z" + LONG)]
    assert abs(scores[0] - scores[1]) > 1e-6


def test_a_prompt_does_not_depend_on_those_beside_it(clip):
    pixels = torch.rand(2, 3, 28, 28)
    together = clip(pixels, ["a cube", LONG])
    assert torch.allclose(together[0], clip(pixels[:1], ["a cube"])[0], atol=1e-5)


def test_other_activations_are_refused(folder):
    from transformers import CLIPConfig

    config = CLIPConfig.from_pretrained(folder)
    require_quick_gelu(config)
    config.text_config.hidden_act = "gelu"
    with pytest.raises(SetupError, match="instead of quick_gelu"):
        require_quick_gelu(config)


def picture(tmp_path: Path, pixels: np.ndarray, name: str, prompt: str) -> Picture:
    from PIL import Image

    Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    return Picture(Item(name, "all", prompt), 0, tmp_path / f"{name}.png", name * 8, pixels.shape[1::-1])


def test_clip_and_pickscore_differ_by_their_factor(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "apex"))
    rng = np.random.default_rng(0)
    made = [
        picture(tmp_path, rng.integers(0, 256, (40, 40, 3), np.uint8), str(i), f"a cube {'abc'[i]}") for i in range(3)
    ]
    values = {}
    for kind in (ClipSana, PickScore):
        files = tuple(file.__class__(file.name, file.size) for file in kind.asset.files)
        monkeypatch.setattr(kind, "asset", kind.asset.__class__(**{**vars(kind.asset), "files": files}))
        protocol = kind(PairConfig(weights=folder, forward=2))
        [stage] = protocol.stages
        stage.open()
        said = dict(zip(made, look(stage, made), strict=True))
        result = protocol.summarise(made, {"scores": said})
        values[kind.name] = result.value
        assert result.value == pytest.approx(np.mean([row["score"] for row in said.values()]))
        assert [record.score for record in result.records] == [said[p]["score"] for p in made]
        assert result.interval[0] <= result.value <= result.interval[1]
    scale = Clip(folder).scale
    assert values["pickscore"] == pytest.approx(values["clip@sana"] / 100 * scale, rel=1e-4)


def test_a_tag_of_one_prompt_keeps_the_interval():
    """All prompts weigh alike, so that the interval does not depend on how they are tagged."""
    values = [21.0, 30.0, 24.0, 27.0, 33.0]

    def result(tags):
        shown = [Picture(Item(str(i), tag, "a cube"), 0, Path(f"{i}.png"), "", (9, 9)) for i, tag in enumerate(tags)]
        said = {one: {"score": value} for one, value in zip(shown, values, strict=True)}
        return ClipSana(PairConfig()).summarise(shown, {"scores": said})

    odd, alike = result("aabaa"), result("aaaaa")
    assert odd.value == alike.value == 27
    assert odd.interval == alike.interval and alike.interval[0] < 27 < alike.interval[1]


def test_hpsv2_runs_open_clip_with_weights_of_its_file(tmp_path, monkeypatch):
    import_torchvision()
    import open_clip

    from apex_cli.evaluation.hpsv2 import Hps

    tower = {"width": 32, "layers": 2, "heads": 2}
    vision = {"image_size": 28, "patch_size": 14, "width": 32, "layers": 2, "head_width": 16}
    config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": {"context_length": 77, "vocab_size": 49408, **tower}}
    (tmp_path / "tiny-hps.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    tuned = open_clip.create_model("tiny-hps", load_weights=False).eval()
    torch.save({"state_dict": tuned.state_dict()}, tmp_path / "hps.pt")
    hps = Hps(tmp_path / "hps.pt", "tiny-hps")
    pixels, texts = torch.rand(2, 3, 28, 28), ["a red cube", LONG]
    with torch.no_grad():
        image, text, _ = tuned(pixels, open_clip.get_tokenizer("tiny-hps")(texts))
        assert torch.allclose(hps(pixels, texts), (image * text).sum(1), atol=1e-5)


def test_agreement_of_texts():
    assert agreement("Jazz Night", "the JAZZ-night 2048") == 1
    assert agreement("Jazz", "Jozz") == 0.75
    assert agreement("Jazz", "") == 0 and agreement("Jazz", "2048") == 0
    assert agreement("爵士之夜", "爵士之夜") == 1


def test_what_a_prompt_asks_for():
    assert asked('A poster, the title "Jazz Night" and “Fresh Coffee” below.') == ["Jazz Night", "Fresh Coffee"]
    assert asked("a photo of a red cube") == []


def test_pieces_are_put_in_reading_order():
    boxes = {"Night": (50, 11, 90, 30), "below": (0, 60, 40, 80), "Jazz": (0, 13, 40, 32)}
    lines = in_order([{"text": text, "score": 1.0, "box": box} for text, box in boxes.items()])
    assert [line["text"] for line in lines] == ["Jazz", "Night", "below"]


def test_text_is_read_by_the_real_reader(tmp_path):
    protocol = Ocr(OcrConfig())
    [stage] = protocol.stages
    stage.open()
    blank = np.full((120, 640, 3), 255, np.uint8)
    made = [
        picture(tmp_path, written("Fresh Coffee"), "right", 'A poster with "Fresh Coffee"'),
        picture(tmp_path, written("Book Fair"), "wrong", 'A poster with "Grand Tournament"'),
        picture(tmp_path, blank, "none", "a photo of a red cube"),
        picture(tmp_path, written("Book Fair"), "unasked", "a photo of a red cube"),
    ]
    result = protocol.summarise(made, {"text": dict(zip(made, look(stage, made), strict=True))})
    assert [record.correct for record in result.records] == [True, False, True, False]
    assert result.records[1].score < 0.5 and "Book Fair" in result.records[3].reason
    assert result.tier == "lite" and result.facts["pictures that should hold text"] == 2


def test_a_broken_reader_is_told(monkeypatch):
    stage = Reading({})
    monkeypatch.setattr(Reading, "read", lambda self, pixels: [])
    with pytest.raises(SetupError, match="text reader is broken"):
        stage.open()
