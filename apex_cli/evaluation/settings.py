"""`[eval]`: what an evaluation may be told."""

from __future__ import annotations

from pydantic import Field

from apex_cli.config import Section


class EvalConfig(Section):
    suite: str = "shapes"
    """Protocols, separated by commas."""
    n: int | None = Field(default=None, ge=1)
    """Images per prompt; None is what each prompt set asks for."""
    prompts: int | None = Field(default=None, ge=1)
    """Only so many prompts, spread evenly over the tasks. They keep the seeds they have in the whole set."""
    seed: int = 0
    batch: int = Field(default=32, ge=1)
    """Images drawn at a time."""

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(name.strip() for name in self.suite.split(",") if name.strip()))
