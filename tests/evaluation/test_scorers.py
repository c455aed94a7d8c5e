"""Scorers of single pictures: the shapes detector, and CLIP on a tiny model of the real class."""

from __future__ import annotations

import string

import numpy as np
import pytest
import torch
from PIL import Image

from apex_cli import registry
from apex_cli.errors import DataError, SetupError
from apex_cli.evaluation.scorers import demands
from apex_cli.flow.condition import Cond
from apex_cli.generation import Request, Sample
from apex_cli.worlds.shapes.grammar import prompts, scene_for
from apex_cli.worlds.shapes.renderer import render
from apex_cli.worlds.shapes.vocabulary import normalise


def made(text, pixels):
    """A sample of which scorers see prompt and pixels."""
    nothing = torch.zeros(1)
    return Sample(Request(text), pixels, nothing, 1, nothing, Cond(nothing, nothing))


def scorer(name, **settings):
    kind = registry.resolve("scorer", name)
    return kind(kind.Config(**settings))


def test_the_detector_prefers_what_was_asked_for():
    rng = np.random.default_rng(0)
    asked = [prompts("iid")[i] for i in (0, 30, 60, 150, 200)]
    true = [render(scene_for(prompt, rng)) for prompt in asked]
    right = scorer("shapes").score([made(p.text, image) for p, image in zip(asked, true, strict=True)])
    wrong = scorer("shapes").score([made(p.text, image) for p, image in zip(asked, true[1:] + true[:1], strict=True)])
    assert min(right) > 1 >= max(wrong)


def test_every_prompt_of_the_world_is_known():
    for split in ("train", "iid", "compose", "long", "alias"):
        for prompt in prompts(split)[::7]:
            text = normalise(prompt.text)[0]
            assert demands(text).include == demands(text.removeprefix("a photo of ")).include == prompt.include
    with pytest.raises(DataError, match="does not know what 'a cat' asks for"):
        demands("a cat")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The folder of a random CLIP with 32 px pictures and a tokenizer of letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = string.ascii_lowercase
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(words), "max_position_embeddings": 12},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    folder = tmp_path_factory.mktemp("clip")
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    return folder


def test_the_clip_score_is_that_of_the_model(clip):
    """Against `logits_per_image`, which is the cosine times a learned scale."""
    from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

    rng, texts = np.random.default_rng(0), ["a cat", "a dog on a mat in the sun", "an owl"]
    images = [rng.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((32, 32), (64, 48), (40, 40))]
    judge = scorer("clip", model=str(clip), batch=2)
    found = judge.score([made(text, image) for text, image in zip(texts, images, strict=True)])
    model, tokenizer = CLIPModel.from_pretrained(clip), CLIPTokenizer.from_pretrained(clip)
    processor = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=32)
    pixels = processor([Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
    tokens = tokenizer(texts, padding=True, truncation=True, max_length=12, return_tensors="pt")
    with torch.no_grad():
        logits = model(pixel_values=pixels, **tokens).logits_per_image.diagonal()
        expected = 100 * logits / model.logit_scale.exp()
    assert found == pytest.approx(expected.tolist(), abs=1e-4)


def test_a_long_prompt_keeps_its_end_token(clip):
    """Two that differ in what fits have different scores, and none is refused."""
    image = np.zeros((32, 32, 3), np.uint8)
    one, other = scorer("clip", model=str(clip)).score([made("ab " * 40, image), made("cd " * 40, image)])
    assert one != other


def test_a_model_that_is_not_there():
    with pytest.raises(SetupError, match="'nobody/nothing' could not be read"):
        scorer("clip", model="nobody/nothing")
