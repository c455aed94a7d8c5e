"""Which judge a protocol asks: exactly one of a file of answers, a folder of a local model, and an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.evaluation.judges.base import Judge
from apex_cli.evaluation.judges.endpoint import Endpoint, EndpointConfig
from apex_cli.evaluation.judges.local import Local
from apex_cli.evaluation.judges.recorded import Recorded


class JudgeConfig(Section):
    answers: Path | None = None
    """A file of recorded answers: replay."""
    answers_by: str = ""
    """Who gave the recorded answers, e.g. gpt-4o-2024-05-13; stands in the name of the protocol."""
    local: Path | None = None
    """Folder of a vision-language model of transformers."""
    endpoint: EndpointConfig = Field(default_factory=EndpointConfig)
    """Asked if it names a model."""
    record: Path | None = None
    """A file that every raw answer is appended to, for replay."""


def choose(config: JudgeConfig) -> Judge | None:
    """None where nobody is named; several raise `UsageError`."""
    named = [key for key in ("answers", "local") if getattr(config, key)] + ["endpoint"] * bool(config.endpoint.model)
    if len(named) > 1:
        raise UsageError(f"Several judges are named: {', '.join(named)}.", "Name one.")
    if config.answers:
        return Recorded(config.answers, config.answers_by or config.answers.stem)
    if config.local:
        return Local(config.local)
    return Endpoint(config.endpoint) if config.endpoint.model else None


@dataclass(frozen=True)
class AnyJudge:
    """The judge as a need: there, once the user has named one whose files exist."""

    protocol: str
    config: JudgeConfig
    name: str = "a judge"
    size: int | None = None

    @property
    def remedy(self) -> str:
        keys = ("endpoint.model=NAME", "local=FOLDER", "answers=FILE")
        return "name one: " + " or ".join(f"--set {self.protocol}.judge.{key}" for key in keys)

    def find(self) -> Path | None:
        if self.config.endpoint.model:
            return Path()
        path = self.config.answers or self.config.local
        return path if path is not None and path.exists() else None
