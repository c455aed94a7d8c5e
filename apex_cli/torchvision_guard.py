"""Makes `import torchvision` work where its compiled operators cannot be loaded: its CUDA wheel beside a CPU torch.

torchvision then fails on its first line of Python about `nms`, and every model of diffusers and transformers with it,
since they look at it. Two empty declarations are enough: transforms, models and `ops.roi_align` are plain torch.
Calling `nms` itself remains an error. Where the operators load, as on CUDA, or where torchvision is absent, nothing
is done. Imports no torch: `apex --help` stays light.
"""

from __future__ import annotations

import sys
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

OPERATORS = ("nms", "qnms")
SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
FIRST_USE = "torchvision._meta_registrations"
"""The module of torchvision that asks for the operators; what loads them has been imported by then."""


class Guard(MetaPathFinder):
    """Finds no module; it is asked for `FIRST_USE` in time to declare what that needs, and then leaves."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname == FIRST_USE:
            sys.meta_path.remove(self)
            declare_missing()


def install() -> None:
    """Stand guard in this process, unless torchvision is imported already or somebody does."""
    if FIRST_USE not in sys.modules and not any(isinstance(finder, Guard) for finder in sys.meta_path):
        sys.meta_path.insert(0, Guard())


def declare_missing() -> bool:
    """Declare `OPERATORS` if torchvision could not load its own; whether that was so."""
    import torch
    from torchvision import extension

    if extension._has_ops():
        return False
    library = torch.library.Library("torchvision", "DEF")
    for name in OPERATORS:
        library.define(name + SIGNATURE)
    extension._apex_library = library  # type: ignore[attr-defined]  # the declarations live as long as this
    return True


def import_torchvision() -> ModuleType:
    """torchvision, guarded also where this package was imported after it was tried; `ImportError` without it."""
    install()
    import torchvision

    return torchvision
