"""The smallest change of a recipe that makes it fit: settings are tried in the order of pain, each planned anew.

Every setting goes to its gentlest on memory at once, and stays there if that lowers the peak, until the run fits. Then
each is brought back as far as it still fits, the most painful first.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ByteSize, TypeAdapter, ValidationError

from apex_cli.errors import MemoryLimitError, UsageError
from apex_cli.training.plan import Plan
from apex_cli.training.settings import TrainConfig

LEAST_RANK = 4
SHARES = (0.25, 0.5, 0.75)
"""Of blocks that are computed again, where not all need be."""
GB = 10**9
Settings = dict[str, Any]
Replan = Callable[[Sequence[str]], Plan]


@dataclass(frozen=True)
class Fit:
    """`changes`: what to give `--set`, empty where the recipe fits as it is; `plan` counts them."""

    room: int
    changes: tuple[str, ...]
    plan: Plan
    tried: int
    """Plans that were made."""


def bytes_of(text: str) -> int:
    """`24GB` (10^9 bytes), `24GiB`; raises `UsageError` for anything else."""
    try:
        size = TypeAdapter(ByteSize).validate_python(text)
    except ValidationError as error:
        raise UsageError(f"--fit {text}: this is no size of memory.", "Write e.g. 24GB or 22.5GiB.") from error
    if size < 2**20:
        raise UsageError(f"--fit {text} is less than a mebibyte.", "Write the unit, e.g. 24GB.")
    return int(size)


def search(train: TrainConfig, real: str | None, adapts: bool, room: str, replan: Replan) -> Fit:
    """Find the changes of `train` that fit into `room`. `real`: the objective's; `adapts`: the backbone takes LoRA.

    Raises `MemoryLimitError` where nothing does.
    """
    found = _Search(bytes_of(room), replan)
    found.start()
    for rung in _ladder(train, found.first, real, adapts):
        if found.fits:
            break
        found.tighten(rung)
    if not found.fits:
        raise _nothing_fits(found)
    found.relax(train)
    return Fit(found.room, tuple(_flags(found.settings)), found.plan, found.tried)


def _ladder(train: TrainConfig, first: Plan, real: str | None, adapts: bool) -> Iterator[Settings]:
    """Settings by pain: time, then the precision of a step, then the average, then what can be learned at all."""
    if first.geometry.micro_batch > 1:
        yield {"micro_batch": 1}
    if adapts and "transformer" in first.parameters.trained and min(train.recomputed) < 1:
        yield {"gradient_checkpointing": 1.0}
    if train.precision != "bf16":
        yield {"precision": "bf16"}
    if train.ema and real != "ema":
        yield {"ema": 0.0}
    if adapts and first.parameters.trained == ("transformer",):
        lora = {} if train.tuning == "lora" else {"tuning": "lora"}
        yield lora | {"lora.rank": min(LEAST_RANK, train.lora.rank)}


class _Search:
    """The settings so far and the plan that they give."""

    def __init__(self, room: int, replan: Replan):
        self.room, self.replan, self.tried = room, replan, 0
        self.settings: Settings = {}
        self.last: Settings = {}

    def start(self) -> None:
        self.plan = self.first = self._try({})

    @property
    def fits(self) -> bool:
        return self.plan.memory.peak <= self.room

    def tighten(self, rung: Settings) -> None:
        """Take a rung of settings if it lowers the peak."""
        plan = self._try(wanted := self.settings | rung)
        if plan.memory.peak < self.plan.memory.peak:
            self.settings, self.plan, self.last = wanted, plan, rung

    def relax(self, train: TrainConfig) -> None:
        """Bring every setting back as far as it fits, the most painful first; the last rung is needed."""
        ends = {"micro_batch": self.first.geometry.micro_batch, "lora.rank": train.lora.rank}
        for key in reversed(list(self.settings)):
            if key in ends:
                self._grow(key, ends[key])
            elif key == "gradient_checkpointing":
                self._lighten(key, min(train.recomputed))
            elif key not in self.last:
                self._drop(key)

    def _grow(self, key: str, end: int) -> None:
        """Double a number up to `end`, where the recipe has it."""
        while (doubled := 2 * self.settings[key]) < end:
            if not self._keep(self.settings | {key: doubled}):
                return
        self._drop(key)

    def _lighten(self, key: str, own: float) -> None:
        """The smallest share of blocks that fits; `own`: the recipe's."""
        if key not in self.last and self._drop(key):
            return
        for share in SHARES:
            if share > own and self._keep(self.settings | {key: share}):
                return

    def _drop(self, key: str) -> bool:
        return self._keep({name: value for name, value in self.settings.items() if name != key})

    def _keep(self, settings: Settings) -> bool:
        plan = self._try(settings)
        if fits := plan.memory.peak <= self.room:
            self.settings, self.plan = settings, plan
        return fits

    def _try(self, settings: Settings) -> Plan:
        self.tried += 1
        return self.replan(_flags(settings))


def _flags(settings: Settings) -> list[str]:
    """As `--set` takes them."""
    return [f"train.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in settings.items()]


def _nothing_fits(found: _Search) -> MemoryLimitError:
    memory, tried = found.plan.memory, " ".join(f"--set {flag}" for flag in _flags(found.settings))
    part = max(memory.parts, key=lambda name: memory.parts[name])
    missing, most = (memory.peak - found.room) / GB, memory.parts[part] / GB
    return MemoryLimitError(
        f"No setting fits this run into {found.room / GB:.3g} GB: {missing:.3g} GB are missing, and {part} alone take "
        f"{most:.3g} GB.",
        f"Use a larger GPU, a smaller model or resolution. Least memory: {tried or 'the recipe as it is'}.",
    )
