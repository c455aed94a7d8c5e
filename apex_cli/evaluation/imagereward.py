"""`imagereward`: ImageReward v1.0 (Xu et al. 2023, arXiv:2304.05977), a preference learned from ranked pictures.

BLIP-large looks at the picture, its text encoder reads the prompt across to it, and five linear layers without
activations turn the first token into r; the score is (r - mean) / std. The classes are transformers' BLIP. The weights
are published as a pickle, which is not opened: `apex eval prepare imagereward` says how to convert it.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from apex_cli.errors import SetupError
from apex_cli.evaluation import resizing
from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.catalog import IMAGEREWARD
from apex_cli.evaluation.pairs import PairProtocol, PairScorer
from apex_cli.evaluation.weights import read_safetensors

MEAN, STD = 0.16717362830052426, 1.0333394966054072
TOKENS = 35
"""Of a prompt; the rest is cut, with the end token kept."""
HEAD = {"0": 1024, "2": 128, "4": 64, "6": 16, "7": 1}
"""Published name of each linear layer (those between are dropout) -> its width."""
LARGE: dict[str, dict[str, Any]] = {
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "layer_norm_eps": 1e-6,
    },
    "text_config": {"encoder_hidden_size": 1024, "num_attention_heads": 12},
}
"""Settings of a `BlipConfig`, over its defaults."""
RENAMED = (
    (r"^blip\.visual_encoder\.cls_token$", "vision.embeddings.class_embedding"),
    (r"^blip\.visual_encoder\.pos_embed$", "vision.embeddings.position_embedding"),
    (r"^blip\.visual_encoder\.patch_embed\.proj\.", "vision.embeddings.patch_embedding."),
    (r"^blip\.visual_encoder\.norm\.", "vision.post_layernorm."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.norm", r"vision.encoder.layers.\1.layer_norm"),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.proj\.", r"vision.encoder.layers.\1.self_attn.projection."),
    (r"^blip\.visual_encoder\.blocks\.(\d+)\.attn\.", r"vision.encoder.layers.\1.self_attn."),
    (r"^blip\.visual_encoder\.blocks\.", "vision.encoder.layers."),
    (r"^blip\.text_encoder\.", "text."),
    (r"^mlp\.layers\.", "head."),
)
UNUSED = ("blip.vision_proj.", "blip.text_proj.", "blip.text_encoder.embeddings.position_ids")


class Reward(nn.Module):
    """`weights`: the published state dict as safetensors; `vocabulary`: vocab.txt of bert-base-uncased."""

    def __init__(self, weights: Path, vocabulary: Path, sizes: Mapping[str, Any] = LARGE):
        super().__init__()
        from transformers import BertTokenizer, BlipConfig, BlipTextModel, BlipVisionModel

        config: Any = BlipConfig(**sizes)
        self.vision: Any = BlipVisionModel(config.vision_config)
        self.text: Any = BlipTextModel(config.text_config, add_pooling_layer=False)
        widths = [config.text_config.hidden_size, *HEAD.values()]
        layers = zip(HEAD, widths, widths[1:], strict=False)
        self.head = nn.Sequential(OrderedDict((name, nn.Linear(read, given)) for name, read, given in layers))
        self.tokenizer: Any = BertTokenizer(vocab=str(vocabulary))
        self._load(weights)
        self.eval().requires_grad_(False)

    def _load(self, weights: Path) -> None:
        try:
            self.load_state_dict(renamed(read_safetensors(weights)))
        except RuntimeError as error:
            told = f"'{weights}' holds other weights than ImageReward's: {str(error).splitlines()[1].strip()}"
            raise SetupError(told, "Convert ImageReward.pt again; `apex eval prepare imagereward` says how.") from error

    def forward(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """Reward of each picture [B, 3, 224, 224] for its prompt: [B]."""
        given = {"padding": "max_length", "truncation": True, "max_length": TOKENS, "return_tensors": "pt"}
        words = self.tokenizer(prompts, **given).to(pixels.device)
        seen = self.vision(pixels).last_hidden_state
        read = self.text(words.input_ids, attention_mask=words.attention_mask, encoder_hidden_states=seen)
        return (self.head(read.last_hidden_state[:, 0])[:, 0] - MEAN) / STD


def renamed(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published state dict under the names of `Reward`, without what scoring does not use."""
    return {_renamed(name): value for name, value in published.items() if not name.startswith(UNUSED)}


def _renamed(name: str) -> str:
    return next((re.sub(old, new, name) for old, new in RENAMED if re.search(old, name)), name)


class ImageReward(PairProtocol):
    name = "imagereward"
    asset = IMAGEREWARD
    digits = 3
    sizes: Mapping[str, Any] = LARGE

    def scorer(self, found: Found) -> PairScorer:
        weights, vocabulary = (found.paths[file.name] for file in self.asset.files)
        side = self.sizes["vision_config"]["image_size"]
        identity = {"network": "imagereward-blip", "weights": found.sha256, "resize": f"clip-{side}"}
        return PairScorer(
            identity, lambda pixels: resizing.clip(pixels, side), lambda: Reward(weights, vocabulary, self.sizes)
        )
