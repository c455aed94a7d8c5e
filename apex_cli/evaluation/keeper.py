"""Answers that a judge once gave to known pictures, kept in `$APEX_CACHE/canaries/NAME.json` for every later run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apex_cli.data.store import cache_folder, draft, settle


def place(name: str) -> Path:
    return cache_folder() / "canaries" / f"{name}.json"


def kept(name: str, ask: Callable[[], Any]) -> Any:
    """The answers (JSON) kept under `name`; asked for and kept where there are none."""
    path = place(name)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = draft(path)
        temporary.write_text(json.dumps(ask()))
        settle(temporary, path)
    return json.loads(path.read_text())
