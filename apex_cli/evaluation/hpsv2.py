"""`hpsv2`: HPS v2.1 (Wu et al. 2023, arXiv:2306.09341), the cosine of a tuned open_clip ViT-H/14, not scaled.

Papers use v2.1, the package v2.0 unless told otherwise. The longer side is fitted and the rest is black.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from apex_cli.evaluation import resizing
from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.catalog import HPSV2
from apex_cli.evaluation.pairs import PairProtocol, PairScorer
from apex_cli.evaluation.weights import read_pth
from apex_cli.torchvision_guard import import_torchvision

ARCHITECTURE = "ViT-H-14"


class Hps(nn.Module):
    def __init__(self, path: Path, architecture: str = ARCHITECTURE):
        super().__init__()
        import_torchvision()
        import open_clip

        self.model: Any = open_clip.create_model(architecture, load_weights=False)
        self.model.load_state_dict(read_pth(path)["state_dict"])
        self.tokenizer: Any = open_clip.get_tokenizer(architecture)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor, prompts: list[str]) -> Tensor:
        """Cosine of each picture [B, 3, side, side] with its prompt: [B]."""
        texts = self.tokenizer(prompts).to(pixels.device)
        return cosine_similarity(self.model.encode_image(pixels), self.model.encode_text(texts))


class HpsV2(PairProtocol):
    name = "hpsv2"
    asset = HPSV2
    packages = ("torchvision", "open_clip")
    digits = 4
    architecture = ARCHITECTURE

    def scorer(self, found: Found) -> PairScorer:
        import_torchvision()
        import open_clip

        config = open_clip.get_model_config(self.architecture)
        assert config is not None
        side = config["vision_cfg"].get("image_size", 224)
        identity = {"network": self.architecture, "weights": found.sha256, "resize": f"hpsv2-{side}"}
        return PairScorer(
            identity, lambda pixels: resizing.hpsv2(pixels, side), lambda: Hps(found.path, self.architecture)
        )
