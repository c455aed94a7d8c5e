"""Pictures on disk, and tiny random models of the real classes that look at them."""

from __future__ import annotations

import hashlib
import string
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from apex_cli.evaluation.base import Item, Picture

LETTERS = string.ascii_lowercase


def picture(folder: Path, item: Item, k: int = 0, pixels: np.ndarray | None = None) -> Picture:
    """A picture of `item`, unlike any other unless `pixels` are given."""
    seed = int(hashlib.sha256(f"{item.id}/{k}".encode()).hexdigest()[:8], 16)
    shown = np.random.default_rng(seed).integers(0, 256, (16, 16, 3), np.uint8) if pixels is None else pixels
    path = folder / f"{item.id}-{k}.png"
    Image.fromarray(shown).save(path)
    size = (shown.shape[1], shown.shape[0])
    return Picture(item, k, path, hashlib.sha256(path.read_bytes()).hexdigest(), size)


def mask2former(folder: Path, labels: int = 80) -> Path:
    """A `Mask2FormerForUniversalSegmentation` of 0.2 M weights over a Swin of one block a stage."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    swin = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    sizes = ("feature_size", "mask_feature_size", "hidden_dim", "encoder_feedforward_dim", "dim_feedforward")
    config = Mask2FormerConfig(
        backbone_config=swin,
        **dict.fromkeys(sizes, 32),
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=12,
        num_labels=labels,
    )
    torch.manual_seed(0)
    model = Mask2FormerForUniversalSegmentation(config)
    with torch.no_grad():
        model.class_predictor.weight.mul_(40)  # so that some class is likely somewhere
    model.save_pretrained(folder)
    return folder


def clip(folder: Path, activation: str = "quick_gelu") -> Path:
    """A `CLIPModel` with 32 px pictures and a tokenizer of letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    words = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes["hidden_act"] = activation
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(words), "max_position_embeddings": 48},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=8,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    return folder


def blip(folder: Path) -> Path:
    """A `BlipForQuestionAnswering` with a word-piece tokenizer of letters."""
    from transformers import BertTokenizer, BlipConfig, BlipForQuestionAnswering, BlipProcessor
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]", "yes", "no", "?", *LETTERS]
    words += [f"##{letter}" for letter in LETTERS]
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 5, "eos_token_id": 3, "sep_token_id": 3, "pad_token_id": 0}
    config = BlipConfig(
        text_config={**sizes, **ends, "vocab_size": len(words), "encoder_hidden_size": 16, "projection_dim": 8},
        vision_config={**sizes, "image_size": 32, "patch_size": 8, "projection_dim": 8},
        projection_dim=8,
        image_text_hidden_size=8,
    )
    torch.manual_seed(0)
    BlipForQuestionAnswering(config).save_pretrained(folder)
    tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    pictures = BlipImageProcessorPil(size={"height": 32, "width": 32})
    BlipProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder
