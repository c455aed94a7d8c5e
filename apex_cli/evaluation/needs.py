"""What a protocol needs, as `base.Need`: a published asset in its folder, or a path that the user has to name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from apex_cli.evaluation import assets


@dataclass(frozen=True)
class Published:
    """An asset; `chosen` is where a user says that it lies. `find` gives its folder."""

    asset: assets.Asset
    suite: str
    chosen: Path | None = None

    @property
    def name(self) -> str:
        return self.asset.name

    @property
    def size(self) -> int:
        return self.asset.size

    @property
    def remedy(self) -> str:
        return f"get it with: apex eval prepare {self.suite}"

    def find(self) -> Path | None:
        found = assets.find(self.asset, {self.asset.name: self.chosen} if self.chosen else None)
        return found.folder if found else None


@dataclass(frozen=True)
class Named:
    """A file or folder that only the user can name, by `setting`; `source` says where to get it."""

    name: str
    setting: str
    source: str
    path: Path | None
    size: int | None = None

    @property
    def remedy(self) -> str:
        return f"{self.source}; then --set {self.setting}=PATH"

    def find(self) -> Path | None:
        return self.path if self.path is not None and self.path.exists() else None
