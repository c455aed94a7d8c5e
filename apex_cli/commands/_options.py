"""Options of the command line as typed settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from apex_cli.config import Section

    SectionT = TypeVar("SectionT", bound=Section)


def checked(kind: type[SectionT], **values: Any) -> SectionT:
    """A section from options; a wrong value is a `UsageError` that names its option."""
    from pydantic import ValidationError

    from apex_cli.errors import UsageError

    try:
        return kind(**values)
    except ValidationError as error:
        found = [(".".join(map(str, e["loc"])), e["msg"].removeprefix("Value error, ")) for e in error.errors()]
        told = "; ".join(f"--{place.replace('_', '-')}: {text}" if place else text for place, text in found)
        raise UsageError(f"{told}.", "See the command's --help.") from error
