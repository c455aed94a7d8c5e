"""A whole benchmark: every case of a grid, all modes of a case interleaved in one process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from PIL import Image

from apex_cli.benching.cells import AGREE, LOSSY, Case, Cell
from apex_cli.benching.clocks import Clock
from apex_cli.benching.devices import Device, Memory, Nvml
from apex_cli.benching.engines import Engine
from apex_cli.benching.laps import Laps, Timing, mark_cost, timed
from apex_cli.benching.measure import Patience, Warmup, rounds, warm_up
from apex_cli.benching.prompts import prompts
from apex_cli.config import Section
from apex_cli.errors import ApexError
from apex_cli.records import Progress

MODES = ("plain", "fast", "cached", "compiled", "fp8", "diffusers")
"""`plain`: our pipeline as it is trained with; `fast`: with everything folded; `cached`: that, asked prompts it knows;
`compiled`: the fast one with the transformer's blocks compiled; `fp8`: the fast one with the transformer's weights kept
in 8 bits; `diffusers`: the stock pipeline, the yardstick."""
ENERGY_SECONDS = 2.0


class Grid(Section):
    """Every combination is measured."""

    nfe: tuple[int, ...] = (1,)
    batch: tuple[int, ...] = (1, 10)
    resolution: tuple[int, ...] = (64,)
    mode: tuple[str, ...] = ("plain", "fast", "diffusers")

    def cases(self, model: str) -> list[Case]:
        return [Case(model, r, b, n) for r, n, b in product(self.resolution, self.nfe, self.batch)]


@dataclass(frozen=True)
class Subject:
    """A model on its device. `engines(case, laps)`: the modes that are ready for a case; `words` of each prompt;
    `seconds` that loading took."""

    name: str
    weights: str
    words: int
    seconds: float
    engines: Callable[[Case, Laps], Mapping[str, Engine]]
    tokens: Callable[[Sequence[str]], int]
    parameters: int
    backbone: Any
    draw: Callable[[str, int, int, Iterable[int]], Iterator[list[tuple[int, Image.Image]]]]
    """(mode, NFE, batch, indices): pictures by index, a batch at a time."""


@dataclass(frozen=True)
class Answer:
    """What one request took: its timing, peak memory in bytes by kind, and `seconds` with all that the harness did."""

    timing: Timing
    memory: dict[str, int]
    seconds: float


@dataclass
class Bench:
    """Measures `subject` on `device`; `cells` fill as it runs."""

    subject: Subject
    grid: Grid
    patience: Patience
    device: Device
    clock: Clock
    cells: list[Cell] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    """What the driver said before and after each case."""
    others: set[int] = field(default_factory=set)
    """Processes that used the device meanwhile."""

    def run(self) -> Iterator[Progress]:
        """All cases; yields how far it is."""
        self.nvml, self.memory = Nvml.open(self.device), Memory(self.device)
        self.cost = mark_cost(self.clock)
        cases = self.grid.cases(self.subject.name)
        for number, case in enumerate(cases, 1):
            self._look()
            for done, total in self._measure(case):
                yield Progress(f"measure {case.key} ({number} of {len(cases)})", done, total)
            self._look()

    def _look(self) -> None:
        if self.nvml is not None:
            self.states.append(self.nvml.state())
            self.others |= set(self.nvml.others())

    def _measure(self, case: Case) -> Iterator[tuple[int, int]]:
        """One case; yields (done, total): modes warmed up and rounds counted, of all that there will be."""
        laps = Laps(self.clock)
        engines = self.subject.engines(case, laps)
        asks = {mode: self._asker(engines[mode], case, laps) for mode in self.grid.mode}
        cells = {}
        least = self.patience.least(case.batch)
        for done, (mode, ask) in enumerate(asks.items()):
            yield done, len(asks) + least
            # Numbers far from those of the rounds, so that no prompt of the warm-up comes again.
            numbers = iter(range(10**6, 10**6 + self.patience.warmup))
            warmup: Warmup[Timing] = warm_up(lambda ask=ask, n=numbers: ask(next(n)).timing, _total, self.patience)
            cells[mode] = Cell(case, mode, warmup, mark_cost=self.cost)
        start = before = self.clock.wall()
        for number, made in enumerate(rounds(asks, self.clock.wall, least, self.patience.seconds), 1):
            for mode, answer in made.items():
                cells[mode].timings.append(answer.timing)
                cells[mode].memory = {k: max(v, cells[mode].memory.get(k, 0)) for k, v in answer.memory.items()}
            expected = self.patience.expected(case.batch, number, self.clock.wall() - start)
            yield len(asks) + number, len(asks) + expected
            after = self.clock.wall()
            shared = (after - before - sum(answer.seconds for answer in made.values())) / len(made)
            for mode, answer in made.items():
                cells[mode].around.append(answer.seconds - answer.timing.work + shared)
            before = after
        for mode, cell in cells.items():
            cell.psnr = self._psnr(engines, mode, case)
            cell.joules = self._energy(asks[mode], case)
            cell.tokens = self.subject.tokens(prompts(1, self.subject.words))
            _check(cell)
        self.cells += cells.values()

    def _asker(self, engine: Engine, case: Case, laps: Laps) -> Callable[[int], Answer]:
        """A function that answers request number so-and-so and says what it took."""

        def ask(number: int) -> Answer:
            start = self.clock.wall()
            texts = prompts(case.batch, self.subject.words, number * case.batch)
            with engine.watched():
                self.memory.reset()
                timing = timed(self.clock, laps, lambda: engine.prepare(texts), lambda: engine(texts, number), png)
            memory = self.memory.peak()
            return Answer(timing, memory, self.clock.wall() - start)

        return ask

    def _psnr(self, engines: Mapping[str, Engine], mode: str, case: Case) -> float | None:
        """dB between the pictures of a lossy mode and those of its exact one, where both are measured."""
        if mode not in LOSSY or LOSSY[mode] not in self.grid.mode:
            return None
        texts = prompts(case.batch, self.subject.words)
        drawn = (np.asarray([np.asarray(x, float) for x in engines[m](texts, 0)]) for m in (mode, LOSSY[mode]))
        return psnr(*drawn)

    def _energy(self, ask: Callable[[int], Any], case: Case) -> float | None:
        """Joules a picture over some seconds of requests one after another; the driver counts too coarsely for one."""
        if self.nvml is None or (before := self.nvml.joules()) is None:
            return None
        start, number = self.clock.wall(), 0
        while self.clock.wall() - start < ENERGY_SECONDS:
            ask(2 * 10**6 + number)
            number += 1
        after = self.nvml.joules()
        return None if after is None else (after - before) / (number * case.batch)


def _total(timing: Timing) -> float:
    return timing.total


def _check(cell: Cell) -> None:
    if abs(cell.agreement - 1) > AGREE:
        raise ApexError(
            f"The stages of {cell.key} make {cell.agreement:.1%} of its total: its time is not understood.",
            "This is a bug of apex, or the device was not synchronised; report it with the JSON of --save.",
        )


def psnr(pictures: np.ndarray, exact: np.ndarray) -> float:
    """Of pictures in 0..255, all together, in dB; equal ones count as one step off in one number."""
    error = max(np.square(pictures - exact).mean(), 1 / exact.size)
    return float(20 * np.log10(255) - 10 * np.log10(error))


def png(image: Image.Image) -> bytes:
    """As `apex sample` writes it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()
