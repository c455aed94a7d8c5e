"""What only the user can name: a file or folder, as `base.Need`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


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
