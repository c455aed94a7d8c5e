"""Images as fast as their slowest stage: prompts of the next batch are read, and the batch before is decoded, while the
network draws; bounded queues between them. The images and their order are those of `generation.generate`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from apex_cli.errors import StorageError
from apex_cli.generation import Batch, Request, Sample, SampleConfig, Stages, chunks

if TYPE_CHECKING:
    from apex_cli.backbones.base import Backbone

Item = TypeVar("Item")
Result = TypeVar("Result")

WAITING = 1
"""Finished items between two stages; one more is in work on either side."""


def staged(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """`map(function, items)` in a thread of its own, in order and a little ahead of who takes the results.

    An error of `function` or `items` arrives where the results are taken, after the results before it. Who stops taking
    them stops the thread, and those before it.
    """
    done, queue, stop = object(), Queue[Any](WAITING), Event()

    def offer(value: Any, error: BaseException | None = None) -> None:
        while not stop.is_set():
            with suppress(Full):
                queue.put((value, error), timeout=0.05)
                return

    def work() -> None:
        try:
            for item in items:
                offer(function(item))
                if stop.is_set():
                    break
            offer(done)
        except BaseException as error:  # told to the consumer
            offer(None, error)
        finally:
            if isinstance(items, Iterator) and hasattr(items, "close"):
                items.close()  # pyright: ignore[reportAttributeAccessIssue]  # a generator

    thread = Thread(target=work, name=getattr(function, "__name__", "stage"), daemon=True)
    thread.start()
    try:
        while (got := queue.get())[0] is not done:
            if got[1] is not None:
                raise got[1]
            yield got[0]
    finally:
        stop.set()
        thread.join()


def stream(backbone: Backbone, config: SampleConfig, requests: Iterable[Request], batch: int = 32) -> Iterator[Sample]:
    """`generation.generate`, its three stages at once."""
    stages = Stages(backbone, config)
    read, draw, decode = (on_stream(stage) for stage in (stages.read, stages.draw, stages.decode))
    for made in staged(decode, staged(draw, staged(read, chunks(requests, batch)))):
        yield from made


def on_stream(stage: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`stage` on a CUDA stream of its own, behind the one that made its argument; as it is where there is no CUDA.

    The host does not wait: an event orders the two streams, and tensors that cross over tell the allocator.
    """
    import torch

    if not torch.cuda.is_available():
        return stage
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())

    def run(item: Any) -> Any:
        with torch.cuda.stream(stream):
            if isinstance(item, _Crossing):
                item.arrive(stream)
                item = item.batch
            made = stage(item)
            return _Crossing(made, stream.record_event()) if isinstance(made, Batch) else made

    return run


class _Crossing:
    """A batch on its way to another CUDA stream."""

    def __init__(self, batch: Batch, event: Any):
        self.batch, self.event = batch, event

    def arrive(self, stream: Any) -> None:
        stream.wait_event(self.event)
        for tensor in (self.batch.noise, self.batch.latents, *vars(self.batch.cond).values()):
            if tensor is not None:
                tensor.record_stream(stream)


class Keeper(Generic[Item, Result]):
    """Saves images into `folder` by `write(item, folder)`; where that fails, into a folder for temporary files, so that
    what was finished is not lost. `failure`: the first reason. For any number of threads."""

    def __init__(self, folder: Path, write: Callable[[Item, Path], Result]):
        self.folder, self.write = folder, write
        self.failure: OSError | None = None
        self.kept = self.rescued = self.lost = 0
        self.refuge: Path | None = None
        self.lock = Lock()

    def __call__(self, item: Item) -> Result | None:
        """What `write` answers; None where the item could be written nowhere."""
        try:
            made = self.write(item, self.folder)
            self._count("kept")
            return made
        except OSError as error:
            self.failure = self.failure or error
        try:
            made = self.write(item, self._refuge())
            self._count("rescued")
            return made
        except OSError:
            return self._count("lost")

    def _count(self, name: str) -> None:
        with self.lock:
            setattr(self, name, getattr(self, name) + 1)

    def _refuge(self) -> Path:
        with self.lock:
            self.refuge = self.refuge or Path(tempfile.mkdtemp(prefix="apex-rescued-"))
            return self.refuge

    def check(self) -> None:
        """Raise `StorageError` where an image could not be written, and say where all of them are."""
        if self.failure is None:
            return
        rescued = f", {self.rescued} finished after that in '{self.refuge}'" if self.rescued else ""
        lost = f", {self.lost} could be written nowhere" if self.lost else ""
        reason = self.failure.strerror or self.failure
        raise StorageError(
            f"'{self.folder}' cannot be written: {reason}. {self.kept} image(s) are there{rescued}{lost}.",
            "Make room or choose another --out, and give the same command: it draws the same images.",
        )
