"""The set that pictures are compared with, as a file: mean and covariance for Frechet, all features for a kernel.

`apex eval reference FOLDER --for PROTOCOL` makes it from a folder of pictures, once, at
`$APEX_CACHE/stats/PROTOCOL/NAME.safetensors`. A file carries the identity of its extractor, and no other protocol takes
it. `.npz` files of pytorch-fid (`mu`, `sigma`) are read too; they say neither how many pictures nor which resize.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from apex_cli.data.store import cache_folder, draft, settle
from apex_cli.errors import DataError
from apex_cli.evaluation.frechet import Gaussian, gaussian
from apex_cli.evaluation.observations import digest

SUFFIX = ".safetensors"
STATS = "stats"
"""The folder of the cache."""


@dataclass(frozen=True)
class Reference:
    """A `Need` of `base.py`: the reference set called `chosen` (a file, a folder whose statistics have been made, or a
    name under `stats/PROTOCOL/`) for one protocol."""

    protocol: str
    chosen: Path | None
    default: str
    """Name of the set that the protocol's tables mean."""
    size: int | None = None

    @property
    def name(self) -> str:
        return f"reference set {self.chosen or self.default}"

    @property
    def label(self) -> str:
        """Its name in tables."""
        if self.chosen is None:
            return self.default
        return self.chosen.stem if self.chosen.is_file() else name_of(self.chosen)

    @property
    def is_default(self) -> bool:
        return self.label == self.default

    @property
    def remedy(self) -> str:
        folder = self.chosen if self.chosen and self.chosen.is_dir() else f"FOLDER --name {self.default}"
        return f"make it with: apex eval reference {folder} --for {self.protocol}"

    def find(self) -> Path | None:
        if self.chosen and self.chosen.is_file():
            return self.chosen
        path = place(self.protocol, name_of(self.chosen) if self.chosen else self.default)
        return path if path.is_file() else None

    @property
    def places(self) -> dict[str, Path]:
        """Where an archive puts the file in a cache -> where it is now, unless it is missing or not of our format."""
        path = self.find()
        return {f"{STATS}/{self.protocol}/{path.name}": path} if path and path.suffix == SUFFIX else {}


def name_of(folder: Path) -> str:
    """Of the reference made from a folder: its own name and where it lies, since many folders are called `images`."""
    resolved = folder.resolve()
    return f"{resolved.name}-{digest(str(resolved))[:8]}" if folder.is_dir() else folder.name


def place(protocol: str, name: str) -> Path:
    return cache_folder() / STATS / protocol / f"{name}{SUFFIX}"


def write(path: Path, features: np.ndarray, identity: Mapping[str, Any], whole: bool) -> None:
    """Of features [n, d]: all of them for a kernel (`whole`), else mean and covariance."""
    from safetensors.numpy import save_file

    summary = gaussian(features)
    tensors = {"features": features} if whole else {"mean": summary.mean, "covariance": summary.covariance}
    facts = json.dumps({"n": len(features), "identity": dict(identity)}, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = draft(path)
    save_file(tensors, temporary, metadata={"apex": facts})
    settle(temporary, path)


def read(path: Path, identity: Mapping[str, Any], whole: bool) -> Gaussian | np.ndarray:
    """What `write` wrote; raises `DataError` for a file of another extractor or kind, or no reference at all."""
    found = _read_npz(path) if path.suffix == ".npz" else _read(path, identity)
    if isinstance(found, Gaussian) == whole:
        kinds = ["all features", "a mean and a covariance"]
        held, asked = reversed(kinds) if whole else kinds
        told = f"'{path}' holds {held} where this suite compares with {asked}."
        raise DataError(told, "Make one for this suite: apex eval reference FOLDER --for SUITE.")
    return found


def _read(path: Path, identity: Mapping[str, Any]) -> Gaussian | np.ndarray:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:
            facts = json.loads((file.metadata() or {})["apex"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(f"'{path}' is not a reference set.", "Make it with `apex eval reference`.") from error
    if facts["identity"] != json.loads(json.dumps(dict(identity))):
        told = f"'{path}' was made by another extractor or resize: {_difference(facts['identity'], identity)}."
        raise DataError(told, "Make it anew with `apex eval reference`; protocols never share a reference.")
    if "features" in tensors:
        return tensors["features"]
    return Gaussian(tensors["mean"], tensors["covariance"], facts["n"])


def _read_npz(path: Path) -> Gaussian:
    try:
        with np.load(path, allow_pickle=False) as file:
            return Gaussian(file["mu"].astype(np.float64), file["sigma"].astype(np.float64), None)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"'{path}' has no `mu` and `sigma`.", "Expected statistics of pytorch-fid.") from error


def _difference(stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    names = [name for name in {**stored, **asked} if stored.get(name) != asked.get(name)]
    return ", ".join(f"{name} {stored.get(name)} instead of {asked.get(name)}" for name in names)
