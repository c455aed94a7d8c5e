"""What lies in a tar shard, read from its headers alone: nothing is extracted, followed, unpacked or run.

Members are read by their place afterwards. So members that do not lie together still make one sample, and half a sample
is never taken for a whole one.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from apex_cli.data.flaws import Flaw
from apex_cli.data.places import MEMBER_BYTES, Place

HEADERS = {
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
}
HEADER_BYTES = 2**20
"""Most bytes of a header that holds names; tarfile reads it into memory."""
PICKLES = {"pickle", "pkl", "pyd", "pyc", "pt", "pth", "ckpt", "bin", "joblib", "npy", "npz", "dill"}
"""Last endings of what some library loads by running it, or may: never opened."""
NAME = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
"""Key and extension as WebDataset divides them: at the first dot of the file's name."""


class Header(tarfile.TarInfo):
    """A header that claims nothing impossible."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
        info = super().frombuf(buf, encoding, errors)
        if info.size < 0 or (info.type in HEADERS and info.size > HEADER_BYTES):
            raise tarfile.InvalidHeaderError("impossible size")  # type: ignore[attr-defined]
        return info


@dataclass
class Listing:
    """`samples`: key -> extension -> place; `flaws`: (key, or name of a member that is none of a sample, flaw)."""

    samples: dict[str, dict[str, Place]] = field(default_factory=dict)
    flaws: list[tuple[str, Flaw]] = field(default_factory=list)


def scan(path: Path) -> Listing:
    """The samples of a shard and all that is wrong with how they are packed. Never raises over what is in the file."""
    listing, last, told = Listing(), None, set()
    size = path.stat().st_size
    for name, found in _members(path):
        if isinstance(found, Flaw):
            listing.flaws.append((name, found))
            continue
        key, extension = divided(name)
        if not extension:
            continue  # no sample for WebDataset either: README, .DS_Store, ._0001.png
        members = listing.samples.setdefault(key, {})
        if members and key != last and key not in told:
            listing.flaws.append((key, Flaw("interleaved", "has other samples between its members")))
            told.add(key)
        last = key
        if extension.rpartition(".")[2] in PICKLES:
            listing.flaws.append((key, Flaw("member-pickle", f"has a member .{extension}, which is never loaded")))
        elif extension in members:
            listing.flaws.append((key, Flaw("key-duplicate", f"has the member .{extension} twice")))
        elif found.offset + found.size > size:
            listing.flaws.append((key, Flaw("shard-truncated", f"lacks the end of its member .{extension}")))
        else:
            members[extension] = found
    return listing


def divided(name: str) -> tuple[str, str]:
    """Key and extension, in lower case, of a member; no extension where it belongs to no sample."""
    parts = NAME.fullmatch(name.removeprefix("./"))
    return (parts[1], parts[2].lower()) if parts else (name, "")


def _members(path: Path) -> Iterator[tuple[str, Place | Flaw]]:
    """(name, place) of every file in a tar; a flaw instead of the place of what is refused, and of a bad end."""
    try:
        # "r:" takes no compression: no shard of ours has any, and a small file cannot become a large one.
        with tarfile.open(path, "r:", tarinfo=Header) as tar:
            end = -1
            while (info := tar.next()) is not None:
                if tar.offset <= end:
                    raise tarfile.ReadError("a header that leads backwards")
                end = tar.offset
                tar.members = []  # which tarfile would keep for ever
                if not info.isdir():
                    yield info.name.removeprefix("./"), _refusal(info) or Place(path, info.offset_data, info.size)
            if flaw := _bad_end(path, tar.offset):
                yield path.name, flaw
    except Exception as error:  # tarfile tells of damage in many ways
        cut = "unexpected end" in str(error) or not path.stat().st_size
        reason, told = ("shard-truncated", "ends in a sample") if cut else ("shard-corrupt", f"is no tar: {error}")
        yield path.name, Flaw(reason, told)


def _refusal(info: tarfile.TarInfo) -> Flaw | None:
    """Why a member is not taken, if so."""
    if is_outside(info.name):
        return Flaw("member-outside", "is a name that leads out of the set; it is not followed")
    if info.issym() or info.islnk():
        return Flaw("member-link", f"is a link to '{info.linkname}'; it is not followed")
    if not info.isreg():
        return Flaw("member-device", "is a device or pipe, no file; it is not opened")
    if info.issparse():
        return Flaw("member-sparse", f"is a sparse file that claims {info.size} bytes; it is not read")
    if info.size > MEMBER_BYTES:
        return Flaw("member-large", f"claims {info.size} bytes; it is not read")
    return None


def is_outside(name: str) -> bool:
    """Whether a name inside a set leads out of it, on any system."""
    path = PurePosixPath(name.replace("\\", "/"))
    return path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) is not None


def _bad_end(path: Path, offset: int) -> Flaw | None:
    """What is wrong where tarfile stopped, since it takes any bad header for the end."""
    with path.open("rb") as file:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        if len(block) < tarfile.BLOCKSIZE:
            return Flaw("shard-truncated", "ends without the end mark of a tar; samples may be missing")
        if any(block):
            return Flaw("shard-corrupt", f"has no header where one belongs, at byte {offset}; what follows is lost")
        while rest := file.read(2**20):
            if any(rest):
                return Flaw("shard-corrupt", "goes on after its end mark (two tars in one file?); that part is lost")
    return None
