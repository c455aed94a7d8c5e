"""What a run begins with, pinned: a base that trains on, or a hub repository that moves, changes nothing made from it.

The contract of a checkpoint names the very folder in `backbone.config.path` and the SHA-256 of its manifest in
`backbone.manifest`, or the commit of a hub repository in `backbone.config.revision`. A plain pipeline folder of others
has neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from apex_cli.backbones import folders
from apex_cli.build import bases
from apex_cli.errors import CheckpointError, SetupError


def is_checkpoint(path: str) -> bool:
    """Whether `path` is a run, checkpoint or export of ours rather than a plain pipeline folder or hub id."""
    return bases.is_ours(Path(folders.locate(path)))


def checkpoint_of(path: str | Path, verified: bool) -> Path:
    """The checkpoint folder behind a run, a checkpoint, an export or `assets:NAME`."""
    from apex_cli.training import checkpoint

    name = str(path)
    return checkpoint.find(Path(folders.locate(name) if name.startswith("assets:") else name), verified=verified)


def pin(config: Any, stored: Mapping[str, Any] | None) -> tuple[Any, str | None]:
    """The settings of a backbone with the checkpoint that `path` means now, and the SHA-256 of its manifest; `stored`:
    the contract of the run that goes on, which stays with what it began with."""
    from apex_cli.training import checkpoint

    row: dict[str, Any] = stored["backbone"] if stored else {"config": {}}
    if row.get("manifest") or row["config"].get("revision"):
        kept = {key: row["config"][key] for key in ("path", "revision") if key in row["config"]}
        require(kept["path"], row.get("manifest"), "this run")
        return config.model_copy(update=kept), row.get("manifest")
    path = getattr(config, "path", None)
    if not path:
        return config, None
    bases.check_trained(path)
    if is_checkpoint(path):
        folder = checkpoint_of(path, verified=False)
        # What ships with the package is found by its name wherever that is.
        place = path if path.startswith("assets:") else str(folder.resolve())
        return config.model_copy(update={"path": place}), checkpoint.identity(folder)
    return config.model_copy(update={"path": str(Path(path).resolve())}) if Path(path).is_dir() else config, None


def committed(config: Any) -> Any:
    """The settings of a backbone that was loaded, with the commit of a hub repository as `revision`."""
    path = getattr(config, "path", None)
    if not path or Path(folders.locate(path)).is_dir():
        return config
    return config.model_copy(update={"revision": folders.commit(path, config.revision)})


def require(path: str, manifest: str | None, whose: str | Path) -> None:
    """Raise `CheckpointError` unless the checkpoint at `path` has still the `manifest` that `whose` contract names."""
    from apex_cli.training import checkpoint

    if manifest is None:
        return
    remedy = "Bring back the folder it was made from; an `apex ckpt export` of a run needs none."
    try:
        folder = checkpoint_of(path, verified=False)
    except (CheckpointError, SetupError) as error:
        raise CheckpointError(f"'{path}', which {whose} was made from, is gone.", remedy) from error
    if checkpoint.identity(folder) != manifest:
        raise CheckpointError(f"'{path}' is not the checkpoint that {whose} was made from: it has changed.", remedy)
