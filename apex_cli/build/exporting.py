"""What `apex ckpt export` does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apex_cli.build.models import load_model


def export(run: str | Path, folder: Path, wanted: Any) -> Any:
    """What `apex ckpt export` does: `exporting.export.Wanted` in, `Proof` out."""
    from apex_cli.exporting.export import export

    return export(load_model(run), load_model, folder, wanted)
