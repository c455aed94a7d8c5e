"""A folder of safetensors shards, each whole or absent, with a manifest that says what they were made of.

$APEX_CACHE/KIND/KEY/
  *.safetensors    shards; the header of each carries its number of rows and the SHA-256 of its content
  manifest.json    what the content was made of, written first; written again with all shards when they are complete

What is there is read from the folder itself, so a killed run goes on with the shards that are missing.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_cli import __version__

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1
"""Raised when shards or the code that fills them change: part of every key."""
SHARD_BYTES = 64 * 2**20
"""A shard is written when it has grown to this: no kill loses more."""
SHARED = "Set APEX_CACHE to a folder that all ranks see, and run the same command again."
ABANDONED = 3600
"""Seconds after which an unfinished file is nobody's, whatever process wrote it: a shard takes far less."""
SCREENED = "screened"
"""A folder beside those of the kinds, with a file for each data set that was looked at: `path`, `samples`, `found`."""
MANIFEST, SHARDS, PARTIAL = "manifest.json", "*.safetensors", ".partial"


Once = Callable[[Callable[[], Any]], Any]
"""Asked for what is costly to find: on several ranks one finds it for all."""


def each(find: Callable[[], Any]) -> Any:
    """Every process finds it."""
    return find()


def cache_folder() -> Path:
    """`$APEX_CACHE`, or `apex` where the caches of the Hugging Face libraries go: in `$HF_HOME` if that is set, else in
    `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := os.environ.get("APEX_CACHE"):
        return Path(chosen).expanduser()
    home = os.environ.get("HF_HOME") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "apex"


@dataclass(frozen=True)
class Store:
    """One folder of shards. `made_of`: JSON, all that decides a bit of the content; `about`: names for people."""

    kind: str
    made_of: dict[str, Any]
    about: dict[str, str]

    @property
    def key(self) -> str:
        text = json.dumps({"format": FORMAT, **self.made_of}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:24]

    @property
    def folder(self) -> Path:
        return cache_folder() / self.kind / self.key

    def shards(self) -> list[Path]:
        return sorted(self.folder.glob(SHARDS))

    def begin(self) -> None:
        """Drop shards that cannot be read, and say what comes here."""
        for path in self.shards():
            if header(path) is None:
                path.unlink()
        if not (self.folder / MANIFEST).is_file():
            self._tell(complete=False)

    def finish(self) -> None:
        """List all shards in the manifest. Its date says when the store was last used."""
        self._tell(complete=True)

    def _tell(self, complete: bool) -> None:
        facts = {path.name: header(path) for path in self.shards()} if complete else {}
        manifest = {
            "format": FORMAT,
            "complete": complete,
            "rows": sum(fact["rows"] for fact in facts.values() if fact),
            "about": self.about,
            "made_of": self.made_of,
            "apex": __version__,
            "shards": facts,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        temporary = draft(self.folder / MANIFEST)
        temporary.write_text(json.dumps(manifest, indent=1))
        settle(temporary, self.folder / MANIFEST)


def draft(path: Path) -> Path:
    """Where this process writes `path` before it is whole; `apex cache gc` knows from the name who that was."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}{PARTIAL}")


def is_abandoned(path: Path) -> bool:
    """Whether the process that wrote the `draft` at `path` is gone."""
    try:
        if time.time() - path.stat().st_mtime > ABANDONED:
            return True
    except FileNotFoundError:  # it has just become whole
        return False
    own = re.fullmatch(rf".+\.{re.escape(socket.gethostname())}\.(\d+){re.escape(PARTIAL)}", path.name)
    return own is not None and not _is_running(int(own[1]))


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def settle(temporary: Path, path: Path) -> None:
    """Flush `temporary` and rename it to `path`: after a kill or power cut, `path` is whole or absent."""
    flush(temporary)
    temporary.replace(path)
    flush(path.parent)


def flush(path: Path) -> None:
    """Bring a file, or the names in a folder, from the system's buffers to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values."""
    import torch

    found = hashlib.sha256()
    for name, value in sorted(tensors.items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def write(path: Path, rows: int, tensors: dict[str, Tensor]) -> None:
    """Create the shard `path`, whole."""
    from safetensors.torch import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = draft(path)
    facts = json.dumps({"rows": rows, "sha256": digest(tensors)})
    save_file(tensors, temporary, metadata={"apex": facts})  # one entry: safetensors writes several in random order
    settle(temporary, path)


def header(path: Path) -> dict[str, Any] | None:
    """`rows`, `sha256`, and the shapes of the tensors of a shard, none of which is read; None for a broken file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            facts = json.loads((file.metadata() or {})["apex"])
            tensors = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            shapes = {name: [value.get_dtype(), *value.get_shape()] for name, value in tensors.items()}
    except (OSError, SafetensorError, KeyError):
        return None
    return {**facts, "tensors": shapes}


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a shard, mapped into memory: processes share the pages, and the system may drop them."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
