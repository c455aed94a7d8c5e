"""Prompts without pictures, for objectives that read none: row i is the i-th prompt of the sources.

[data]
name = "prompts"
sources = [{ source = "prompts.txt" }]
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

from apex_cli.data.prompt_sources import PromptsConfig, gather


class PromptList:
    """`prompts(rows)` of what `[prompts]` of a synth-data recipe would name."""

    Config = PromptsConfig

    def __init__(self, config: PromptsConfig, benchmarks: Mapping[str, Sequence[str]]):
        """`benchmarks`: the prompts that `held_out` names. Raises `UsageError`, `DataError` or `SetupError`."""
        self.texts = gather(config, benchmarks).texts
        self.fingerprint = hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.texts)

    def prompts(self, rows: Sequence[int]) -> list[str]:
        return [self.texts[row] for row in rows]
