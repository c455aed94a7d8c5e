"""What a model is called where its folder alone would not say it."""

from __future__ import annotations

from pathlib import Path


def label(source: Path) -> str:
    """The name of a model's folder, with that of its run before a step."""
    return f"{source.absolute().parent.name}-{source.name}" if source.name.startswith("step-") else source.name
