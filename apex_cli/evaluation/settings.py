"""`[eval]`: what an evaluation may be told."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apex_cli.config import Section


class EvalConfig(Section):
    suite: Literal["shapes"] = "shapes"
    split: Literal["train", "iid", "compose", "long", "alias"] = "iid"
    images: int = Field(default=4, ge=1)
    """Images per prompt."""
    prompts: int | None = Field(default=None, ge=1)
    """Only so many prompts, spread evenly over the tasks. They keep the seeds they have in the whole split."""
    seed: int = 0
    batch: int = Field(default=32, ge=1)
