"""Files that protocols cannot run without: what they are called, where they may lie, and how to get them.

Looked for in this order, and never fetched: the place a user names, `$APEX_CACHE/weights/ID/`, the cache of torch.hub,
that of the Hugging Face hub, and installed packages that ship weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from apex_cli.data.store import cache_folder, file_hash
from apex_cli.errors import SetupError

WEIGHTS = "weights"
"""The folder of the cache."""


@dataclass(frozen=True)
class File:
    """One file. `size` in bytes; where the publisher's is not known to us, an estimate with `sha256` None."""

    name: str
    size: int
    sha256: str | None = None
    also: tuple[str, ...] = ()
    """Other names under which the same bytes are published."""


@dataclass(frozen=True)
class Asset:
    """What protocols need under one name: a `Need` of `base.py`. `command` is run on a connected machine."""

    id: str
    files: tuple[File, ...]
    licence: str
    source: str
    command: str
    hub: str | None = None
    """Repository of the Hugging Face hub, if that is where it comes from; `datasets/OWNER/NAME` for one of data."""
    package: str | None = None
    """Import name of a package that ships the files, and the folder in it: `rapidocr/models`."""
    chosen: Path | None = None
    """Folder or file that a user names: then the only place looked at."""

    @property
    def name(self) -> str:
        return self.files[0].name

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    @property
    def remedy(self) -> str:
        return f"get it with: {self.command}" if self.package else f"get it with: apex eval prepare {self.id}"

    def at(self, place: Path | None) -> Asset:
        """The same, where a user says that it lies."""
        return replace(self, chosen=place)

    def find(self) -> Path | None:
        """The first file, in the first place that has all of them."""
        found = self.locate()
        return found.path if found else None

    def locate(self) -> Found | None:
        places = [self.chosen] if self.chosen else _folders(self)
        return next((found for place in places if (found := _in(self, place))), None)

    @property
    def places(self) -> dict[str, Path]:
        """Where an archive puts the files in a cache -> where they are now; empty where they are missing."""
        found = self.locate()
        here = [(file, found.paths[file.name]) for file in self.files] if found else []
        # A name may tell the format, as `model.safetensors` does.
        return {
            f"{WEIGHTS}/{self.id}/{path.name if path.name in file.also else file.name}": path for file, path in here
        }

    def require(self) -> Found:
        """As `locate`; raises `SetupError` where it is missing."""
        if found := self.locate():
            return found
        told = f"'{self.chosen or self.id}' lacks {', '.join(file.name for file in self.files)}."
        raise SetupError(told, self.remedy[0].upper() + self.remedy[1:] + ".")


@dataclass(frozen=True)
class Found:
    """An asset that lies in one folder: file name -> path, whatever it is called there."""

    asset: Asset
    folder: Path
    paths: Mapping[str, Path]

    @property
    def path(self) -> Path:
        """Of the first file."""
        return self.paths[self.asset.name]

    @property
    def sha256(self) -> str:
        """Of the largest file: the weights."""
        weights = max(self.paths.values(), key=lambda path: path.stat().st_size)
        return file_sha256(weights)

    def verify(self) -> Found:
        """Compare the files with the hashes their publisher gave them, where known; raises `SetupError`."""
        for file in self.asset.files:
            path = self.paths[file.name]
            if file.sha256 and (actual := file_sha256(path)) != file.sha256:
                told = f"'{path}' is not the published {file.name}: its SHA-256 is {actual}, not {file.sha256}."
                raise SetupError(told, f"Delete it and get it again: {self.asset.command}")
        return self


def file_sha256(path: Path) -> str:
    """The hub's cache names large files by their hash."""
    real = path.resolve()
    return real.name if real.parent.name == "blobs" and len(real.name) == 64 else _hash(real, real.stat().st_mtime_ns)


@cache
def _hash(path: Path, changed: int) -> str:
    return file_hash(path)


def weights_folder() -> Path:
    return cache_folder() / WEIGHTS


def people_size(count: int) -> str:
    """Bytes as `96 MB` or `1.7 GB`, powers of ten as the hubs print them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _in(asset: Asset, place: Path) -> Found | None:
    """The asset in a folder, or as the one file it consists of."""
    if place.is_file() and len(asset.files) == 1:
        return Found(asset, place.parent, {asset.files[0].name: place})
    paths = {file.name: path for file in asset.files if (path := _named(file, place))}
    return Found(asset, place, paths) if len(paths) == len(asset.files) else None


def _named(file: File, folder: Path) -> Path | None:
    return next((path for name in (file.name, *file.also) if (path := folder / name).is_file()), None)


def _folders(asset: Asset) -> Sequence[Path]:
    return [weights_folder() / asset.id, torch_hub_folder(), *_hub_snapshots(asset.hub), *_in_package(asset.package)]


def torch_hub_folder() -> Path:
    """Where torch.hub keeps what it has fetched by address."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _hub_snapshots(repository: str | None) -> list[Path]:
    """All versions of a repository that the Hugging Face cache holds, the last fetched first."""
    if repository is None:
        return []
    from huggingface_hub.constants import HF_HUB_CACHE

    name = repository if repository.startswith("datasets/") else f"models/{repository}"
    versions = (Path(HF_HUB_CACHE) / name.replace("/", "--") / "snapshots").glob("*")
    return sorted(versions, key=lambda path: path.stat().st_mtime, reverse=True)


def _in_package(place: str | None) -> list[Path]:
    if place is None:
        return []
    package, _, inside = place.partition("/")
    spec = find_spec(package)
    return [Path(root) / inside for root in (spec.submodule_search_locations or [])] if spec else []
