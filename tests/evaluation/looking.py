"""A stage over a few pictures as the engine runs it, batch by batch, without a store."""

from __future__ import annotations

from collections.abc import Sequence

from apex_cli.evaluation.base import Observation, Picture, Stage
from apex_cli.evaluation.observations import prepare, said


def look(stage: Stage, pictures: Sequence[Picture]) -> list[Observation]:
    batches = [pictures[start : start + stage.batch] for start in range(0, len(pictures), stage.batch)]
    return [one for batch in batches for one in said({}, stage, [prepare(stage, picture) for picture in batch])]
