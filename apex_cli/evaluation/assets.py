"""Files that protocols cannot run without: what they are called, where they may lie, and how to get them.

Looked for in this order, and never fetched: the place a user names, `$APEX_CACHE/weights/NAME/`, the cache of torch.hub,
the cache of the Hugging Face hub, and installed packages that ship weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from apex_cli.data.store import cache_folder, file_hash
from apex_cli.errors import SetupError


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
    """What a protocol needs under one name. `command` is run on a connected machine, in any folder."""

    name: str
    files: tuple[File, ...]
    licence: str
    source: str
    command: str
    hub: str | None = None
    """Repository of the Hugging Face hub, if that is where it comes from."""
    package: str | None = None
    """Import name of a package that ships the files, and the folder in it: `rapidocr/models`."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)


@dataclass(frozen=True)
class Found:
    """An asset that lies in one folder: file name -> path, whatever it is called there."""

    asset: Asset
    folder: Path
    paths: Mapping[str, Path]

    @property
    def path(self) -> Path:
        """Of the first file."""
        return self.paths[self.asset.files[0].name]


def weights_folder() -> Path:
    return cache_folder() / "weights"


def find(asset: Asset, places: Mapping[str, Path] | None = None) -> Found | None:
    """The first place that has all files of the asset. `places`: asset name -> folder or file that a user names; it is
    the only one looked at then, and `SetupError` is raised if it lacks something."""
    if chosen := (places or {}).get(asset.name):
        if found := _in(asset, chosen):
            return found
        lacking = ", ".join(file.name for file in asset.files)
        raise SetupError(f"'{chosen}' is not {asset.name}: it must hold {lacking}.", f"Get it with: {asset.command}")
    return next((found for folder in _folders(asset) if (found := _in(asset, folder))), None)


def missing(asset: Asset, suite: str) -> str:
    """Why a row is skipped, with its remedy."""
    return (
        f"skipped: needs {asset.files[0].name} ({people_size(asset.size)}); get it with: apex eval prepare {suite}"
    )


def people_size(count: int) -> str:
    """Bytes as `96 MB` or `1.7 GB`, powers of ten as the hubs print them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def verify(found: Found) -> Found:
    """Compare every file with the hash its publisher gave it, where that is known; raises `SetupError`."""
    for file in found.asset.files:
        path = found.paths[file.name]
        if file.sha256 and (actual := file_hash(path)) != file.sha256:
            told = f"'{path}' is not the published {file.name}: its SHA-256 is {actual}, not {file.sha256}."
            raise SetupError(told, f"Delete it and get it again: {found.asset.command}")
    return found


def is_offline() -> bool:
    """Whether the hub's own variables forbid the network."""
    return any(os.environ.get(name, "0") not in ("", "0") for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))


def _in(asset: Asset, place: Path) -> Found | None:
    """The asset in a folder, or as the one file it consists of."""
    if place.is_file() and len(asset.files) == 1:
        return Found(asset, place.parent, {asset.files[0].name: place})
    paths = {file.name: path for file in asset.files if (path := _named(file, place))}
    return Found(asset, place, paths) if len(paths) == len(asset.files) else None


def _named(file: File, folder: Path) -> Path | None:
    return next((path for name in (file.name, *file.also) if (path := folder / name).is_file()), None)


def _folders(asset: Asset) -> Sequence[Path]:
    return [weights_folder() / asset.name, torch_hub_folder(), *_hub_snapshots(asset.hub), *_in_package(asset.package)]


def torch_hub_folder() -> Path:
    """Where torch.hub keeps what it has fetched by address."""
    home = os.environ.get("TORCH_HOME") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "torch")
    return Path(home).expanduser() / "hub" / "checkpoints"


def _hub_snapshots(repository: str | None) -> list[Path]:
    """All versions of a repository that the Hugging Face cache holds, the last fetched first."""
    if repository is None:
        return []
    from huggingface_hub.constants import HF_HUB_CACHE

    versions = (Path(HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots").glob("*")
    return sorted(versions, key=lambda path: path.stat().st_mtime, reverse=True)


def _in_package(place: str | None) -> list[Path]:
    if place is None:
        return []
    package, _, inside = place.partition("/")
    spec = find_spec(package)
    return [Path(root) / inside for root in (spec.submodule_search_locations or [])] if spec else []
