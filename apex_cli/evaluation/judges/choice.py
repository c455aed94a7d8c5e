"""Which judge a protocol asks: exactly one of a file of answers, a folder of a local model, and an endpoint."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import Field

from apex_cli.config import Section
from apex_cli.errors import UsageError
from apex_cli.evaluation.judges.base import Judge
from apex_cli.evaluation.judges.endpoint import Endpoint, EndpointConfig
from apex_cli.evaluation.judges.local import Local
from apex_cli.evaluation.judges.official import Official
from apex_cli.evaluation.judges.recorded import Recorded


class JudgeConfig(Section):
    answers: Path | None = None
    """A file of recorded answers: replay."""
    answers_by: str = ""
    """Who gave the recorded answers, e.g. gpt-4o-2024-05-13; stands in the name of the protocol."""
    local: Path | None = None
    """Folder of a vision-language model of transformers."""
    local_max_tokens: int = Field(default=300, ge=1)
    """Cap of its answers."""
    endpoint: EndpointConfig = Field(default_factory=EndpointConfig)
    """Asked if it names a model."""
    record: Path | None = None
    """A file that every raw answer is appended to, for replay."""


def choose(config: JudgeConfig, official: Official) -> Judge | None:
    """None where nobody is named; several raise `UsageError`. The official judge is asked as its benchmark does."""
    named = [key for key in ("answers", "local") if getattr(config, key)] + ["endpoint"] * bool(config.endpoint.model)
    if len(named) > 1:
        raise UsageError(f"Several judges are named: {', '.join(named)}.", "Name one.")
    if config.answers:
        return Recorded(config.answers, config.answers_by or config.answers.stem)
    if config.local:
        return Local(config.local, config.local_max_tokens)
    if not config.endpoint.model:
        return None
    return Endpoint(config.endpoint, official.thinking if official.is_called(config.endpoint.model) else None)


@dataclass(frozen=True)
class AnyJudge:
    """The judge as a need: there, once the user has named one whose files exist or that may be asked."""

    protocol: str
    config: JudgeConfig
    size: int | None = None

    @property
    def name(self) -> str:
        return f"the network, for {self.config.endpoint.url}" if self._forbidden else "a judge"

    @property
    def remedy(self) -> str:
        keys = ("endpoint.model=NAME", "local=FOLDER", "answers=FILE")
        named = "name one: " + " or ".join(f"--set {self.protocol}.judge.{key}" for key in keys)
        return "leave out --offline and unset HF_HUB_OFFLINE, or ask a judge on this machine" * self._forbidden or named

    def find(self) -> Path | None:
        if self.config.endpoint.model:
            return None if self._forbidden else Path()
        if self.config.answers:
            return self.config.answers if self.config.answers.is_file() else None
        return self.config.local if self.config.local and self.config.local.is_dir() else None

    @property
    def _forbidden(self) -> bool:
        """Whether the judge is elsewhere and no network is to be asked."""
        from huggingface_hub import constants

        endpoint = self.config.endpoint
        return bool(endpoint.model) and constants.HF_HUB_OFFLINE and not is_here(endpoint.url)


def is_here(url: str) -> bool:
    """Whether an address is of this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False
