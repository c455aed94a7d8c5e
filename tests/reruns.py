"""A capture for the CPU: the same memory on every run, as in a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from apex_cli.backbones.fast import graphs


def rerun(function: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
    """`graphs.Recorder` without CUDA, with the runs before the one that is recorded."""
    for _ in range(2):
        function()
    answer = function()

    def replay() -> None:
        for own, new in zip(graphs.tensors(answer), graphs.tensors(function()), strict=True):
            own.copy_(new)

    return replay, answer
