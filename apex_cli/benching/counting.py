"""What a stage of a pipeline has to do, counted on tensors without memory: FLOPs, bytes of weights, kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from apex_cli.flops import Flops

aten = torch.ops.aten
FREE = {aten._unsafe_view, aten.empty, aten.empty_like, aten.empty_strided, aten.new_empty, aten.detach}
"""No kernel, though not marked as views."""


@dataclass(frozen=True)
class Part:
    """One module that holds weights: its FLOPs, the bytes of its weights, and the frames that its kernel spans in
    time (1 but for the convolutions of a video autoencoder)."""

    flops: int = 0
    weights: int = 0
    frames: int = 1


@dataclass(frozen=True)
class Count:
    """A stage. `parts`: by name of the module; "" are the operations without weights. `kernels`: operations that torch
    is told to do, views not counted."""

    parts: dict[str, Part]
    kernels: int

    @property
    def flops(self) -> int:
        return sum(part.flops for part in self.parts.values())

    @property
    def weights(self) -> int:
        """Bytes of all weights that the stage reads."""
        return sum(part.weights for part in self.parts.values())

    def without(self, *words: str) -> Count:
        """Without the modules whose name has one of `words` in it."""
        kept = {name: part for name, part in self.parts.items() if not any(word in name for word in words)}
        return replace(self, parts=kept)

    def single_frame(self) -> Count:
        """With convolutions over time that see one picture and frames of zeros reduced to the slice that sees it."""
        flat = {name: Part(part.flops // part.frames, part.weights // part.frames) for name, part in self.parts.items()}
        return replace(self, parts=flat)


class _Counter(Flops):
    """Counts what is dispatched, by the innermost module with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.inside: list[str] = [""]
        self.by_module: Counter[str] = Counter()
        self.kernels = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self.total
        out = super().__torch_dispatch__(func, types, args, kwargs)
        self.by_module[self.inside[-1]] += self.total - before
        self.kernels += not (func.is_view or func._overloadpacket in FREE)
        return out


def count(module: nn.Module, run: Callable[[], object]) -> Count:
    """What `run` makes `module`, which lies on the meta device, do."""
    counter = _Counter()
    used: dict[str, Part] = {}
    with _entered(module, counter.inside, used), torch.no_grad(), torch.device("meta"), counter:
        run()
    parts = {name: replace(part, flops=counter.by_module[name]) for name, part in used.items()}
    parts[""] = Part(counter.by_module[""])
    return Count(parts, counter.kernels)


@contextmanager
def _entered(module: nn.Module, inside: list[str], used: dict[str, Part]) -> Iterator[None]:
    """Keep in `inside` the names of the modules with own weights that are running, and in `used` what they hold."""
    handles = []

    def leave(*_: Any) -> None:
        inside.pop()

    for name, part in module.named_modules():
        if weights := sum(value.nbytes for value in part.parameters(recurse=False)):
            size = getattr(part, "kernel_size", ())
            held = Part(
                weights=0 if isinstance(part, nn.Embedding) else weights, frames=size[0] if len(size) == 3 else 1
            )

            def enter(*_: Any, name: str = name, held: Part = held) -> None:
                inside.append(name)
                used[name] = held

            handles.append(part.register_forward_pre_hook(enter))
            handles.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
