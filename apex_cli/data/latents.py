"""Latents of a fixed data set, computed once and kept on disk under a key of their content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


def cache_folder() -> Path:
    """`$APEX_CACHE`, or `apex` beside the hub's own cache (`HF_HOME`, `XDG_CACHE_HOME`)."""
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return Path(os.environ.get("APEX_CACHE", home / "apex"))


def weights_hash(module: nn.Module) -> str:
    """SHA-256 over names and values of all weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def cached_latents(
    key: str, size: int, pixels: Callable[[range], Tensor], encode: Callable[[Tensor], Tensor], batch: int = 64
) -> Iterator[int | Tensor]:
    """Yield the number of rows done while encoding, then the latents [size, C, h, w]; a cached set yields at once."""
    path = cache_folder() / "latents" / f"{key}.safetensors"
    if not path.is_file():
        parts = []
        for start in range(0, size, batch):
            rows = range(start, min(start + batch, size))
            with torch.no_grad():
                parts.append(encode(pixels(rows)).cpu())
            yield rows.stop
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        save_file({"latents": torch.cat(parts).contiguous()}, temporary)
        temporary.replace(path)
    yield load_file(path)["latents"]
