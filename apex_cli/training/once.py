"""What is looked up once for all ranks: whole data sets, encoders and checkpoints are read to be hashed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list


class Once:
    """`once(find)`: what `find()` gives on the main process, told to the other ranks, which wait."""

    def __init__(self, accelerator: Accelerator):
        self.main, self.alone = accelerator.is_main_process, accelerator.num_processes == 1

    def __call__(self, find: Callable[[], Any]) -> Any:
        if self.alone:
            return find()
        told: list[Any] = broadcast_object_list([find() if self.main else None])
        return told[0]

    def fingerprint(self, data: Any) -> str | None:
        """That of a data set; from then on it, and in a mixture every source, has it without reading."""
        for source in getattr(data, "sources", [data]):
            found = self(lambda source=source: getattr(source, "fingerprint", None))
            if found is not None:
                vars(source)["fingerprint"] = found
        return getattr(data, "fingerprint", None)
