"""Where bytes lie: a stretch of a file, such as a member of a tar."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from apex_cli.data.flaws import Refused

MEMBER_BYTES = 2**28
"""Nothing larger is read into memory; a picture of 64 megapixels has less."""
CAPTION_BYTES = 2**20
"""No caption has more."""


@dataclass(frozen=True)
class Place:
    """`size` bytes of the file `path` from `offset` on; `sha256`: what they were when they were listed."""

    path: Path
    offset: int
    size: int
    sha256: str | None = None

    def read(self) -> bytes:
        """All bytes or none: raises `Refused` where some are missing or altered."""
        if not (self.offset >= 0 and 0 <= self.size <= MEMBER_BYTES):
            raise Refused("member-large", f"claims {self.size} bytes from {self.offset} on")
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                content = file.read(self.size)
        except FileNotFoundError as error:
            raise Refused("shard-missing", f"lies in '{self.path.name}', which is not there") from error
        except OSError as error:
            raise Refused("picture-unreadable", f"could not be read: {error.strerror}") from error
        if len(content) < self.size:
            raise Refused("shard-truncated", f"has {len(content)} of its {self.size} bytes")
        if self.sha256 and hashlib.sha256(content).hexdigest() != self.sha256:
            raise Refused("altered", "has other bytes than index.parquet lists (SHA-256 differs)")
        return content
