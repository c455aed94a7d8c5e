"""What trackers such as TensorBoard and W&B are told of a run."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from apex_cli.records import StepRecord


def settings(recipe: str) -> dict[str, Any]:
    """A resolved recipe flat, by dotted name; lists become text, since TensorBoard takes plain values only."""
    return {name: str(value) if isinstance(value, list) else value for name, value in _flat(tomllib.loads(recipe))}


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def values(record: StepRecord) -> dict[str, float]:
    """The numbers of a logged step."""
    own = {"loss": record.loss, "grad_norm": record.grad_norm, "lr": record.lr, "seconds": record.seconds}
    return own | record.parts | record.telemetry
