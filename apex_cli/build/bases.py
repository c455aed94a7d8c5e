"""What a recipe starts from: whether it is there, and which recipe makes it where it is not."""

from __future__ import annotations

from pathlib import Path

from apex_cli.errors import SetupError
from apex_cli.recipe import trained_by


def is_ours(folder: Path) -> bool:
    """Whether it is a run, checkpoint or export of ours; not where a run has no checkpoint yet."""
    return (folder / "contract.json").is_file() or any(folder.glob("step-*"))


def check_trained(path: str) -> None:
    """Raise `SetupError` where `path` is the run of a shipped recipe that has no checkpoint yet: without its folder it
    would pass for a hub id, and with an empty one for a broken pipeline."""
    recipe = trained_by(path)
    if recipe and not is_ours(Path(path)):
        raise SetupError(f"'{path}' is not trained yet.", f"Train it first: apex train {recipe}")
