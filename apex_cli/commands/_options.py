"""Options of the command line as typed settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from apex_cli.config import Section
    from apex_cli.generation import SampleConfig

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


def sampling(sample: SampleConfig, nfe: int | None, sampler: str | None, guidance: float | None) -> SampleConfig:
    """The contract's settings with those of the command line over them; noise levels follow what is changed.

    One evaluation leaves no room for the contract's guidance, which takes two.
    """
    given = {"nfe": nfe, "sampler": sampler, "guidance": 1.0 if nfe == 1 and guidance is None else guidance}
    changes = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return sample
    return checked(type(sample), **{**sample.model_dump(), **changes, "sigmas": None})
