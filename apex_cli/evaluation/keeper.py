"""What took time to find and will be asked again: kept as JSON in `$APEX_CACHE/KIND/NAME.json` for every later run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from apex_cli.data.store import cache_folder, draft, settle

CANARIES = "canaries"
"""The kind of a judge's answers to known pictures."""


def place(name: str, kind: str = CANARIES) -> Path:
    return cache_folder() / kind / f"{name}.json"


def kept(name: str, find: Callable[[], Any], kind: str = CANARIES) -> Any:
    """What is kept under `name`; found and kept where there is nothing."""
    path = place(name, kind)
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = draft(path)
        temporary.write_text(json.dumps(find()))
        settle(temporary, path)
    return json.loads(path.read_text())
