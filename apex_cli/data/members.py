"""What the members of a sample in a tar say: one is its picture, one holds its caption."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from apex_cli.data.flaws import Flaw, Refused
from apex_cli.data.pictures import SUFFIXES
from apex_cli.data.places import CAPTION_BYTES, Place

Members = Mapping[str, Place]
"""Extension in lower case -> place."""


def picture(members: Members) -> Place | Flaw:
    """The only picture of a sample."""
    kinds = [kind for kind in members if f".{kind}" in SUFFIXES]
    if not kinds:
        return Flaw("picture-missing", f"has {named(members)}, but no picture")
    if len(kinds) > 1:
        return Flaw("key-duplicate", f"has {len(kinds)} pictures: {named(kinds)}")
    return members[kinds[0]]


def text(members: Members, kind: str, entries: Sequence[str] = ()) -> str | Flaw:
    """The caption in the member `kind`: all of it, or the first of `entries` that it has as a JSON object."""
    if kind not in members:
        return Flaw("caption-missing", f"has {named(members)}, but no caption in .{kind}")
    place = members[kind]
    if place.size > CAPTION_BYTES:
        return Flaw("caption-unreadable", f"has a .{kind} of {place.size} bytes, over 1 MiB")
    try:
        said = place.read().decode("utf-8-sig")
        return worded(_entry(said, entries) if entries else said)
    except Refused as error:
        return error.flaw
    except (ValueError, RecursionError):
        return Flaw("caption-unreadable", f"has a .{kind} that is not {'JSON' if entries else 'text'} in UTF-8")


def _entry(said: str, entries: Sequence[str]) -> str:
    row = json.loads(said)
    return next((str(row[name]) for name in entries if row.get(name)), "") if isinstance(row, dict) else ""


def worded(caption: str | None) -> str | Flaw:
    """A caption without the white space around it."""
    if caption is None:
        return Flaw("caption-missing", "has no caption")
    return caption.strip() or Flaw("caption-empty", "has an empty caption")


def named(kinds: Iterable[str]) -> str:
    return ", ".join(f".{kind}" for kind in kinds) or "no member that can be read"
