"""Protocols without prompts of their own: what they measure, and why some pictures do not fit them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from apex_cli.evaluation.assets import Asset
from apex_cli.evaluation.base import Item, PromptSet


@dataclass(frozen=True)
class Unfit:
    """Why pictures cannot be measured, and what to do about it."""

    reason: str
    remedy: str


class Guest:
    """Measures the pictures of other suites, or those of a folder as it is."""

    prompts = None

    @property
    def usual(self) -> Asset | None:
        """MJHQ-30K's prompts where published numbers are of them: drawn where no other suite brings prompts."""
        return None

    @property
    def exclusive(self) -> bool:
        """Whether the usual prompts are drawn also beside those of other suites, as others would not fit."""
        return False

    def unfit(self, prompts: PromptSet | None, items: Sequence[Item]) -> Unfit | None:
        """What is wrong with these pictures. `prompts` is None for a folder of which no suite knows the prompts;
        `items` are then as the folder names them."""
        return None
