"""Needs of `base.py` that are no published files: what only the user can name, and packages."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from apex_cli.extras import install

UNLICENSED = "none stated: not to be passed on"


@dataclass(frozen=True)
class Named:
    """A file or folder that only the user can name, by `setting`; `source` says where to get it."""

    name: str
    setting: str
    source: str
    path: Path | None
    size: int | None = None
    licence: str = ""

    @property
    def remedy(self) -> str:
        return f"{self.source}; then --set {self.setting}=PATH"

    def find(self) -> Path | None:
        return self.path if self.path is not None and self.path.exists() else None


@dataclass(frozen=True)
class Package:
    """A package of the extra `eval`, by its import name."""

    name: str
    size: int | None = None

    @property
    def id(self) -> str:
        """The same need for every suite."""
        return self.name

    @property
    def remedy(self) -> str:
        return f"get it with: {install('eval')}"

    def find(self) -> Path | None:
        spec = find_spec(self.name)
        return Path(spec.origin).parent if spec and spec.origin else None
