"""Bytes alive while a step runs: every storage that an operation makes, from its birth to its last reference.

It sees real tensors and those of `FakeTensorMode` alike, so that a plan counts what the allocator would have to give:
what autograd keeps, what gradient checkpointing makes again, gradients as they come, and temporaries. What a kernel
takes for itself while it runs is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

Course = dict[tuple[Hashable, int], list[tuple[int, int]]]
"""(bytes alive, those of them that are gradients) after each operation, by place and the number of its visit."""


def peak(course: Course) -> int:
    """The most bytes at once."""
    return max((total for moments in course.values() for total, _ in moments), default=0)


def activations(course: Course) -> int:
    """The most bytes at once that are not gradients."""
    return max((total - gradients for moments in course.values() for total, gradients in moments), default=0)


class Live(TorchDispatchMode):
    """`course` tells gradients of `parameters` from everything else."""

    def __init__(self, parameters: Iterable[Tensor] = ()):
        super().__init__()
        self.parameters = list(parameters)
        self.storages: dict[int, tuple[weakref.ref, int]] = {}
        self.total = self.gradients = 0
        self.counted: set[int] = set()
        """Storages of gradients."""
        self.course: Course = {}
        self.visits: Counter[Hashable] = Counter()
        self.mark(None)

    def mark(self, place: Hashable) -> None:
        """What comes now happens at `place`."""
        self.moments = self.course[place, self.visits[place]] = []
        self.visits[place] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.prim.device.default:  # a fake tensor asks for each of its uses
            return func(*args)
        for tensor in _tensors((args, kwargs)):
            self._meet(tensor, 0)  # older than this mode, unless known
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            self.add(tensor)
        self.moments.append((self.total, self.gradients))
        return out

    def add(self, tensor: Tensor) -> None:
        """Count a tensor from now on."""
        self._meet(tensor, tensor.untyped_storage().nbytes())

    @contextmanager
    def watching(self) -> Iterator[None]:
        """The mode itself, with gradients told from activations as soon as they are finished."""
        handles = [p.register_post_accumulate_grad_hook(self._finished) for p in self.parameters]
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _meet(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.storages:
            return

        def gone(_: Any) -> None:
            self.total -= self.storages.pop(key)[1]

        self.storages[key] = weakref.ref(storage, gone), size
        self.total += size

    def _finished(self, parameter: Tensor) -> None:
        """A gradient is there, or more has come to it; one that was there before is not counted."""
        gradient = parameter.grad
        if gradient is not None and (key := gradient.untyped_storage()._cdata) not in self.counted:
            self.counted.add(key)
            self.gradients += self.storages[key][1]


def _tensors(values: Any) -> Iterator[Tensor]:
    """Those in the arguments or answers of an operation; called twice for each, so quicker than a general tree."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, list | tuple):
        for value in values:
            yield from _tensors(value)
    elif isinstance(values, dict):
        yield from _tensors(list(values.values()))
