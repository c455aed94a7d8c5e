"""Published weights as files: safetensors, and the one place where a `.pth` is opened, with torch's safe reader.

`weights_only=True` builds tensors and containers and runs nothing, whatever the file says; the hash of a known file is
compared first. Everything that apex writes itself is safetensors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from apex_cli.errors import SetupError


def read_pth(path: Path) -> dict[str, Any]:
    """The state dict in `path`; raises `SetupError` for a file that is none."""
    from pickle import UnpicklingError  # the reader's own name for what it refuses

    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        told = f"'{path}' holds no weights: {str(error).splitlines()[0]}"
        raise SetupError(told, "Get the file again; `apex eval prepare` says how.") from error


def read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors in `path`; raises `SetupError` for a file of another format, such as a pickle."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        told = f"'{path}' is no file of safetensors: {str(error).splitlines()[0]}"
        raise SetupError(told, "Get or convert the file again; `apex eval prepare` says how.") from error
