"""What `apex eval` asks: protocols by name, and a model of ours as the source of pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from apex_cli.build.labels import label
from apex_cli.build.models import SHIPPED_STUDENT, ready
from apex_cli.build.origins import checkpoint_of
from apex_cli.config import Section, merged
from apex_cli.errors import ApexError, UsageError
from apex_cli.registry import resolve


def protocols(names: Sequence[str], changes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The protocols called so, each with the `--set` values of its name, be it the short one that is asked for (`fid`)
    or the one that a table shows (`fid@sana-512`)."""
    made, used = {}, set()
    for name in dict.fromkeys(names):
        own = changes.get(name, {})
        full = _made(name, own).name.partition("+")[0]
        made[name] = _made(name, merged(changes.get(full, {}), own))
        used |= {name, full}
    if strange := changes.keys() - used:
        raise UsageError(f"--set {sorted(strange)[0]}: not a suite of this evaluation.", f"Suites: {', '.join(names)}.")
    return made


def _made(name: str, values: dict[str, Any]) -> Any:
    from pydantic import ValidationError

    kind = resolve("protocol", name)
    try:
        return kind(kind.Config(**values))
    except ValidationError as error:
        first = error.errors()[0]
        told = f"--set {name}.{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}."
        raise UsageError(told, f"Keys of {name}: {', '.join(kind.Config.model_fields) or 'none'}.") from error


def paths(changes: dict[str, dict[str, Any]]) -> dict[str, Path]:
    """`NAME.KEY` -> the file or folder that a `--set` value names."""
    read = {name: resolve("protocol", name).Config(**values) for name, values in changes.items()}
    return {f"{name}.{key}": path for name in changes for key, path in _paths(read[name], changes[name])}


def _paths(section: Section, values: dict[str, Any]) -> Iterator[tuple[str, Path]]:
    """(key, path) of those of `values` that are one in the `section` they were read into; "" names none."""
    for key, value in values.items():
        read = getattr(section, key)
        if isinstance(read, Section):
            yield from ((f"{key}.{inner}", path) for inner, path in _paths(read, value))
        elif value and isinstance(read, Path):
            yield key, read


def distinct(protocols: dict[str, Any]) -> list[Any]:
    """The protocols of an evaluation; one that is asked for by two of its names raises `UsageError`."""
    suites: dict[str, str] = {}
    for suite, protocol in protocols.items():
        if (first := suites.setdefault(protocol.name, suite)) != suite:
            raise UsageError(f"--suite: {first} and {suite} are one suite.", "Name it once; --set takes either name.")
    return list(protocols.values())


def required(given: str, protocols: dict[str, Any]) -> list[str]:
    """The names of the protocols that --require means: by suite, by protocol (what stands behind "+" may be left out),
    or `fid` for every `fid@...`."""
    called = {
        p.name: {suite, suite.partition("@")[0], p.name, p.name.partition("+")[0]} for suite, p in protocols.items()
    }
    wanted = [name.strip() for name in given.split(",") if name.strip()]
    for name in wanted:
        if not any(name in names for names in called.values()):
            told = f"--require {name}: not a suite of this evaluation."
            raise UsageError(told, f"Suites: {', '.join(protocols)}.")
    return [protocol for protocol, names in called.items() if names & set(wanted)]


def require_comparable(place: str) -> None:
    """Raise `UsageError` unless `place` is an evaluation or a model, before anything is drawn."""
    from apex_cli.evaluation.records import REPORT

    if (Path(place) / REPORT).is_file():
        return
    try:
        checkpoint_of(place, verified=False)
    except ApexError as error:
        told = f"--compare {place}: neither a finished evaluation nor a model."
        raise UsageError(told, "Give the folder of an evaluation, a run, a checkpoint or assets:NAME.") from error


def source(ckpt: str | None, home: Path | None) -> Any:
    """A model of ours as the `Source` of an evaluation, which goes into its run, never into the package."""
    from apex_cli.backbones.folders import ASSETS
    from apex_cli.evaluation.jobs import Source
    from apex_cli.evaluation.painters import Checkpoint

    model = ready(ckpt or SHIPPED_STUDENT)
    place = model.source
    in_run = place.name.startswith("step-")
    own = place.parent / "evals" if in_run and ASSETS not in place.parents else Path("evals")
    return Source(label(place), Checkpoint(model), home or own)
