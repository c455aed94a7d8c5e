"""What a step of a deep network costs, from steps of shallow ones.

Equal blocks cost alike, and a step passes them one after the other. So FLOPs are linear in how many there are; and so
are the bytes alive at any one moment, if that moment is named by its place: the k-th operation on the second block, on
the last but one. Between these two it is linear in the block, so that no block between them is higher than both. A step
with three equal blocks and one with four therefore tell every number of a step with sixty, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from apex_cli.backbones.blocks import lists
from apex_cli.training.live import Course, Live

SHALLOW = 3
WORTH = 2 * SHALLOW + 1
"""Equal blocks in a row that cost no more to count than twice a few of them."""


@dataclass
class Count:
    """`numbers`: linear in the depth."""

    numbers: Mapping[str, float]
    course: Course = field(default_factory=dict)


class Repeats:
    """The runs of equal blocks in the lists of `network`; `traits`: what else makes blocks different; `ready` is told
    each block before it is first used."""

    def __init__(
        self, network: nn.Module, traits: Callable[[nn.Module], Hashable], ready: Callable[[nn.Module], object]
    ):
        self.network, self.ready = network, ready
        self.used: set[nn.Module] = set()
        self.runs: list[tuple[str, list[nn.Module]]] = []
        for name, held in lists(network):
            for _, run in groupby(held, lambda block: (_shape(block), traits(block))):
                self.runs.append((name, list(run)))
        self.depths = [len(run) for _, run in self.runs]

    def count(self, count: Callable[[], Count]) -> Count:
        """What `count` finds for the whole network."""
        full = list(self.depths)
        long = [i for i, depth in enumerate(full) if depth > WORTH]
        if not long:
            return self._whole(count)
        shallow = [SHALLOW if i in long else depth for i, depth in enumerate(full)]
        with self._cut(shallow):
            base = self._placed(count(), long)
        deeper = []
        for i in long:
            with self._cut([depth + (i == j) for j, depth in enumerate(shallow)]):
                deeper.append((full[i] - SHALLOW, self._placed(count(), long)))
        return _extended(base, deeper) or self._whole(count)

    def _whole(self, count: Callable[[], Count]) -> Count:
        with self._cut(list(self.depths)):
            return count()

    @contextmanager
    def watched(self, live: Live) -> Iterator[None]:
        """Tell `live` when the forward and the backward of a block begin."""
        with ExitStack() as stack:
            for i, depth in enumerate(self.depths):
                for k, block in enumerate(self.runs[i][1][:depth]):
                    for handle in _watch(block, live, (i, k)):
                        stack.callback(handle.remove)
            yield

    @contextmanager
    def _cut(self, depths: list[int]) -> Iterator[None]:
        """The network with so many blocks of each run."""
        whole, self.depths = self.depths, depths
        held = dict(lists(self.network))
        kept: dict[str, list[nn.Module]] = {name: [] for name in held}
        for (name, run), depth in zip(self.runs, depths, strict=True):
            kept[name] += run[:depth]
        for block in (block for few in kept.values() for block in few if block not in self.used):
            self.ready(block)
            self.used.add(block)
        try:
            for name, few in kept.items():
                setattr(self.network, name, nn.ModuleList(few))
            yield
        finally:
            self.depths = whole
            for name, all_of_them in held.items():
                setattr(self.network, name, all_of_them)

    def _placed(self, counted: Count, long: list[int]) -> Count:
        """Blocks of long runs by their distance from an end: one in the middle of three has two names."""
        course: Course = {}
        for (place, visit), moments in counted.course.items():
            if place is None:
                course[None, visit] = moments
                continue
            (run, k), what = place  # pyright: ignore[reportGeneralTypeIssues]
            depth = self.depths[run]
            names = [("first", k)] if k < 2 or run not in long else []
            names += [("last", depth - k)] if run in long and depth - k <= 2 else []
            course |= {((run, name, what), visit): moments for name in names}
        return Count(counted.numbers, course)


def is_forward(place: Any) -> bool:
    """Whether what a course names so is the forward of a block, and not what a backward computes again of it."""
    return place is not None and place[-1] == "forward"


def _shape(block: nn.Module) -> Hashable:
    tensors = (*block.named_parameters(), *block.named_buffers())
    return repr(block), tuple((name, value.shape, value.dtype, value.requires_grad) for name, value in tensors)


def _watch(block: nn.Module, live: Live, place: Hashable) -> tuple[Any, Any]:
    def entered(*_: Any) -> None:
        in_backward = torch._C._current_graph_task_id() != -1  # as torch's FSDP asks
        live.mark((place, "again" if in_backward else "forward"))

    def left(_: nn.Module, __: Any, answers: Any) -> None:
        for k, answer in enumerate(tree_leaves(answers)):
            if isinstance(answer, Tensor) and answer.requires_grad:
                answer.register_hook(lambda _, k=k: live.mark((place, k)))

    return block.register_forward_pre_hook(entered), block.register_forward_hook(left)


def _extended(base: Count, deeper: list[tuple[int, Count]]) -> Count | None:
    """`base` with so many more blocks as `deeper` says, which has one more; None where the steps do not match."""
    if any(_outline(count) != _outline(base) for _, count in deeper):
        return None
    numbers = {
        name: value + sum(more * (count.numbers[name] - value) for more, count in deeper)
        for name, value in base.numbers.items()
    }
    course: Course = {}
    for place, moments in base.course.items():
        others = [(more, count.course[place]) for more, count in deeper]
        course[place] = [
            (
                total + sum(more * (other[k][0] - total) for more, other in others),
                gradients + sum(more * (other[k][1] - gradients) for more, other in others),
            )
            for k, (total, gradients) in enumerate(moments)
        ]
    return Count(numbers, course)


def _outline(count: Count) -> Any:
    return {place: len(moments) for place, moments in count.course.items()}
