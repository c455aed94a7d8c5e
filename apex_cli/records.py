"""What is written to disk about a run: typed, JSON, one line a step."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

METRICS = "metrics.jsonl"
"""The records of a run, in its folder."""


@dataclass(frozen=True)
class StepRecord:
    """One logged step: `parts` are the unweighted terms, `gradients` their norms (only at telemetry steps)."""

    step: int
    loss: float
    parts: dict[str, float]
    grad_norm: float
    lr: float
    seconds: float
    """Wall time of an optimizer step, mean since the last record; drawing grids and saving is not in it."""
    telemetry: dict[str, float] = field(default_factory=dict)
    """Further measured facts, by dotted name: `gradient.match`, `error.t1.0`, `shift_distance`, `diversity`."""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Progress:
    """What a running command shows: `done` of `total` of a phase: encode images or prompts, train, sample, save."""

    phase: str
    done: int
    total: int
    record: StepRecord | None = None


class Metrics:
    """`metrics.jsonl` of a run; on resume, lines after the checkpoint are dropped so that no step stands twice."""

    def __init__(self, path: Path, step: int):
        self.path = path
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        staging = path.with_name(f".{path.name}.partial")
        staging.write_text("".join(f"{line}\n" for line in kept))
        staging.replace(path)

    def _lines(self) -> list[str]:
        # A kill can leave half a last line: it is dropped with the steps that will be repeated.
        text = self.path.read_text() if self.path.is_file() else ""
        return text[: text.rfind("\n") + 1].splitlines()

    def append(self, record: StepRecord) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(asdict(record)) + "\n")


def read_metrics(path: Path) -> list[dict]:
    """All records of a run, oldest first."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
