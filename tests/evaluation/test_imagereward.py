"""ImageReward on a tiny random model: published names and arithmetic, written out once more in plain torch."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest
import torch
from looking import look
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import conv2d, embedding, gelu, layer_norm, linear
from torch.nn.functional import scaled_dot_product_attention as attend

from apex_cli.errors import SetupError
from apex_cli.evaluation.base import Item, Picture
from apex_cli.evaluation.imagereward import MEAN, STD, ImageReward, Reward
from apex_cli.evaluation.pairs import PairConfig

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *string.ascii_lowercase]
WORDS += [f"##{letter}" for letter in string.ascii_lowercase]
DEPTH, HEADS, SEEN, READ, SIDE = 2, 2, 16, 12, 32
TINY = {
    "vision_config": {
        "hidden_size": SEEN,
        "intermediate_size": 4 * SEEN,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "image_size": SIDE,
        "patch_size": 16,
        "layer_norm_eps": 1e-6,
    },
    "text_config": {
        "vocab_size": len(WORDS),
        "hidden_size": READ,
        "intermediate_size": 4 * READ,
        "num_hidden_layers": DEPTH,
        "num_attention_heads": HEADS,
        "encoder_hidden_size": SEEN,
        "max_position_embeddings": 40,
        "bos_token_id": 2,
        "sep_token_id": 3,
    },
}


def published() -> dict[str, Tensor]:
    """Random weights under the names, and in the shapes, of ImageReward.pt."""
    torch.manual_seed(0)
    made: dict[str, Tensor] = {}

    def layer(name: str, read: int, given: int) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = torch.randn(given, read) / read**0.5, torch.randn(given) / 4

    def norm(name: str, width: int) -> None:
        made[f"{name}.weight"], made[f"{name}.bias"] = 1 + torch.randn(width) / 4, torch.randn(width) / 4

    eye, reader = "blip.visual_encoder", "blip.text_encoder"
    made[f"{eye}.cls_token"], made[f"{eye}.pos_embed"] = torch.randn(1, 1, SEEN), torch.randn(1, 5, SEEN)
    made[f"{eye}.patch_embed.proj.weight"] = torch.randn(SEEN, 3, 16, 16) / 28
    made[f"{eye}.patch_embed.proj.bias"] = torch.randn(SEEN)
    for i in range(DEPTH):
        block, depth = f"{eye}.blocks.{i}", f"{reader}.encoder.layer.{i}"
        for n in (1, 2):
            norm(f"{block}.norm{n}", SEEN)
        layer(f"{block}.attn.qkv", SEEN, 3 * SEEN), layer(f"{block}.attn.proj", SEEN, SEEN)
        layer(f"{block}.mlp.fc1", SEEN, 4 * SEEN), layer(f"{block}.mlp.fc2", 4 * SEEN, SEEN)
        for kind, width in (("attention", READ), ("crossattention", SEEN)):
            layer(f"{depth}.{kind}.self.query", READ, READ), layer(f"{depth}.{kind}.output.dense", READ, READ)
            layer(f"{depth}.{kind}.self.key", width, READ), layer(f"{depth}.{kind}.self.value", width, READ)
            norm(f"{depth}.{kind}.output.LayerNorm", READ)
        layer(f"{depth}.intermediate.dense", READ, 4 * READ), layer(f"{depth}.output.dense", 4 * READ, READ)
        norm(f"{depth}.output.LayerNorm", READ)
    norm(f"{eye}.norm", SEEN), norm(f"{reader}.embeddings.LayerNorm", READ)
    made[f"{reader}.embeddings.word_embeddings.weight"] = torch.randn(len(WORDS), READ)
    made[f"{reader}.embeddings.position_embeddings.weight"] = torch.randn(40, READ)
    made[f"{reader}.embeddings.position_ids"] = torch.arange(40)[None]
    layer("blip.vision_proj", SEEN, 256), layer("blip.text_proj", READ, 256)
    widths = (READ, 1024, 128, 64, 16, 1)
    for name, read, given in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        layer(f"mlp.layers.{name}", read, given)
    return made


def by_hand(w: dict[str, Tensor], pixels: Tensor, ids: Tensor) -> Tensor:
    """The reward of one picture for one unpadded prompt."""

    def lay(name: str, x: Tensor) -> Tensor:
        return linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], eps)

    def heads(x: Tensor) -> Tensor:
        return x.unflatten(-1, (HEADS, -1)).transpose(0, 1)

    def mixed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(heads(query), heads(key), heads(value)).transpose(0, 1).flatten(1)

    eye, reader = "blip.visual_encoder", "blip.text_encoder"
    patches = conv2d(pixels, w[f"{eye}.patch_embed.proj.weight"], w[f"{eye}.patch_embed.proj.bias"], stride=16)
    x = torch.cat([w[f"{eye}.cls_token"][0], patches[0].flatten(1).T]) + w[f"{eye}.pos_embed"][0]
    for i in range(DEPTH):
        at = f"{eye}.blocks.{i}"
        x = x + lay(f"{at}.attn.proj", mixed(*lay(f"{at}.attn.qkv", norm(f"{at}.norm1", x, 1e-6)).chunk(3, -1)))
        x = x + lay(f"{at}.mlp.fc2", gelu(lay(f"{at}.mlp.fc1", norm(f"{at}.norm2", x, 1e-6))))
    x = norm(f"{eye}.norm", x, 1e-6)
    at = f"{reader}.embeddings"
    y = embedding(ids, w[f"{at}.word_embeddings.weight"]) + w[f"{at}.position_embeddings.weight"][: len(ids)]
    y = norm(f"{at}.LayerNorm", y, 1e-12)
    for i in range(DEPTH):
        for kind, other in (("attention", None), ("crossattention", x)):
            at = f"{reader}.encoder.layer.{i}.{kind}"
            source = y if other is None else other
            said = mixed(lay(f"{at}.self.query", y), lay(f"{at}.self.key", source), lay(f"{at}.self.value", source))
            y = norm(f"{at}.output.LayerNorm", y + lay(f"{at}.output.dense", said), 1e-12)
        at = f"{reader}.encoder.layer.{i}"
        y = norm(
            f"{at}.output.LayerNorm", y + lay(f"{at}.output.dense", gelu(lay(f"{at}.intermediate.dense", y))), 1e-12
        )
    reward = y[0]
    for name in (0, 2, 4, 6, 7):
        reward = lay(f"mlp.layers.{name}", reward)
    return (reward - MEAN) / STD


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("imagereward")
    save_file(published(), path / "ImageReward.safetensors")
    (path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return path


@pytest.fixture(scope="module")
def reward(folder) -> Reward:
    return Reward(folder / "ImageReward.safetensors", folder / "vocab.txt", TINY)


def test_the_score_is_that_of_the_published_arithmetic(reward, folder):
    """In a batch, where the shorter prompt is padded; and nothing is like its neighbour."""
    torch.manual_seed(1)
    pixels, prompts = torch.randn(2, 3, SIDE, SIDE), ["an owl", "A Cat on a mat"]
    spelled = [["[CLS]", "a", "##n", "o", "##w", "##l", "[SEP]"]]
    spelled += [["[CLS]", "a", "c", "##a", "##t", "o", "##n", "a", "m", "##a", "##t", "[SEP]"]]
    ids = [torch.tensor([WORDS.index(word) for word in one]) for one in spelled]
    weights = load_file(folder / "ImageReward.safetensors")
    expected = [float(by_hand(weights, one[None], own)) for one, own in zip(pixels, ids, strict=True)]
    assert reward(pixels, prompts).tolist() == pytest.approx(expected, abs=1e-4)
    assert abs(expected[0] - expected[1]) > 0.01


def test_a_long_prompt_is_cut_with_its_end_kept(reward):
    pixels = torch.zeros(3, 3, SIDE, SIDE)
    same, longer, other = reward(pixels, ["x " * 33, "x " * 50, "x " * 32 + "y"]).tolist()
    assert same == pytest.approx(longer, abs=1e-6) and abs(same - other) > 1e-5


def test_it_is_a_protocol_like_the_others(folder, tmp_path, monkeypatch):
    from PIL import Image

    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "apex"))
    monkeypatch.setattr(ImageReward, "sizes", TINY)
    protocol, rng, made = ImageReward(PairConfig(weights=folder, forward=2)), np.random.default_rng(0), []
    for i, prompt in enumerate(("a cat", "a dog", "an owl")):
        path = tmp_path / f"{i}.png"
        Image.fromarray(rng.integers(0, 256, (48, 40, 3), np.uint8)).save(path)
        made.append(Picture(Item(str(i), "all", prompt), 0, path, str(i) * 8, (40, 48)))
    [stage] = protocol.stages
    stage.open()
    said = dict(zip(made, look(stage, made), strict=True))
    result = protocol.summarise(made, {"scores": said})
    assert result.value == pytest.approx(np.mean([row["score"] for row in said.values()]))
    assert len({round(row["score"], 4) for row in said.values()}) == 3


def test_a_pickle_is_not_opened(folder, tmp_path):
    """Neither under its own name, which is a missing file with a remedy, nor under another one."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS))
    torch.save(published(), tmp_path / "ImageReward.pt")
    [need] = ImageReward(PairConfig(weights=tmp_path)).needs
    assert need.find() is None and need.name == "ImageReward.safetensors"
    assert need.remedy == "get it with: apex eval prepare imagereward" and "weights_only=True" in need.command
    (tmp_path / "ImageReward.pt").rename(tmp_path / "ImageReward.safetensors")
    with pytest.raises(SetupError, match="no file of safetensors"):
        Reward(tmp_path / "ImageReward.safetensors", tmp_path / "vocab.txt", TINY)


def test_other_weights_are_told(folder, tmp_path):
    weights = load_file(folder / "ImageReward.safetensors")
    del weights["mlp.layers.7.bias"]
    save_file(weights, tmp_path / "less.safetensors")
    with pytest.raises(SetupError, match=r"other weights than ImageReward's: Missing key.*head.7.bias"):
        Reward(tmp_path / "less.safetensors", folder / "vocab.txt", TINY)
