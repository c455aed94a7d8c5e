"""Work in threads, a few items ahead of who takes the results: any number of items in the memory of a few."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

WINDOW = 32


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], window: int = WINDOW, workers: int | None = None
) -> Iterator[Result]:
    """`map(function, items)`, in order, with at most `window` items worked on or waiting to be taken."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) == window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
