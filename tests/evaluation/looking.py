"""A stage over a few pictures as the engine runs it, without a store."""

from __future__ import annotations

from collections.abc import Sequence

from apex_cli.evaluation.base import Observation, Picture, Stage
from apex_cli.evaluation.observations import prepare, said


def look(stage: Stage, pictures: Sequence[Picture]) -> Sequence[Observation]:
    return said({}, stage, [prepare(stage, picture) for picture in pictures])
