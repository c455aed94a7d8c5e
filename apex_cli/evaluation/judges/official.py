"""The judge that a benchmark was made with: only its own answers may stand under the benchmark's bare name."""

from __future__ import annotations

from dataclasses import dataclass

from apex_cli.evaluation.judges.base import Judge


@dataclass(frozen=True)
class Official:
    names: tuple[str, ...]
    """All that it is called, in small letters."""
    thinking: bool | None = None
    """Whether it thinks before it answers; None for one that cannot."""

    def is_called(self, name: str) -> bool:
        return name.lower() in self.names

    def label(self, judge: Judge) -> list[str]:
        """What of `judge` stands in the name of the protocol: whatever is not the benchmark's own."""
        other = [] if self.is_called(judge.name) else [judge.name.replace("/", "-")]
        return [*other, *judge.unusual]
