"""Regional torch.compile: the forward of every repeated block, one graph for all blocks of a class.

What calls the blocks stays as it is, so that hooks (FSDP's, checkpointing's) run outside of the graphs. A class has as
many graphs as it meets kinds of call: with and without gradient, adapters on and off, a first block whose input needs
no gradient, a second prompt length (from then on any). They are compiled when they are first met, not at every step.
"""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from apex_cli.backbones.blocks import blocks
from apex_cli.backbones.compact import traceable
from apex_cli.errors import SetupError, UsageError

KINDS = 32
"""Graphs that a class of blocks may have; torch's own limit of 8 is for programs that recompile by mistake."""


def compile_blocks(network: nn.Module, device: torch.device, off: str) -> None:
    """Compile the blocks of `network` in place. A copy made afterwards would share them: copy first.

    Raises `SetupError` or `UsageError` with the remedy `off` where it cannot be; see `check`.
    """
    check(network, device, off)
    options: Any = torch._dynamo.config
    options.recompile_limit = max(options.recompile_limit, KINDS)
    for block in blocks(network):
        block.forward = torch.compile(block.forward)


def check(network: nn.Module, device: torch.device, off: str) -> None:
    """Raise `SetupError` where nothing can compile, `UsageError` where the weights cannot be compiled with; `off`: how
    to do without."""
    if not traceable(network):
        raise UsageError("Compiling does not go with backbone.offload or dtype = 'nf4'.", off)
    if not any(blocks(network)):
        raise UsageError("This network has no repeated blocks to compile.", off)
    if device.type == "cpu" and compiler() is None:
        raise SetupError("Compiling needs a C++ compiler, and there is none.", f"Install g++ or set CXX. {off}")
    if device.type == "cuda" and find_spec("triton") is None:
        raise SetupError("Compiling needs triton, which is not installed.", f"pip install triton. {off}")


def compiler() -> str | None:
    """The C++ compiler that torch would call."""
    return next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "g++", "clang++"))), None)
