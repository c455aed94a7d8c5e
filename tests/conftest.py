"""One thread per worker and no network, set before anything imports torch or a hub client."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "Agg"
os.environ.pop("APEX_TRACEBACK", None)

import pytest
import torch

import apex_cli  # noqa: F401  # stands guard before a test imports transformers or diffusers

torch.set_num_threads(1)


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
