"""The prompts of MJHQ-30K (Li et al. 2024, arXiv:2402.17245), one picture each: FID and CLIP scores are published on
them. `meta_data.json` of playgroundai/MJHQ-30K says id -> {"category", "prompt"}."""

from __future__ import annotations

import json
from pathlib import Path

from apex_cli.errors import DataError
from apex_cli.evaluation.base import Item, PromptSet

NAME = "mjhq"


def prompt_set(path: Path) -> PromptSet:
    """In the order of the file, of which Sana's toolkit takes the first N. Raises `DataError`."""
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        items = tuple(Item(id, row["category"], row["prompt"]) for id, row in rows.items())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        told = f"'{path}' holds no prompts of MJHQ-30K ({type(error).__name__}: {error})."
        raise DataError(told, "Get meta_data.json again: apex eval prepare mjhq.") from error
    return PromptSet(NAME, items, in_order=True)
