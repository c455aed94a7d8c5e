"""A second structure over the same tensors: what is folded in one of them stays as it was in the other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def shared(module: Module) -> Module:
    """A copy of `module` whose parameters and buffers are those of `module` itself."""
    memo = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return copy.deepcopy(module, memo)


def replace(root: nn.Module, make: Callable[[nn.Module], nn.Module | None]) -> int:
    """Put `make(part)` in the place of every part it does not answer None for; how many there were."""
    count = 0
    for parent in list(root.modules()):
        for name, part in list(parent.named_children()):
            if (new := make(part)) is not None:
                setattr(parent, name, new)
                count += 1
    return count
