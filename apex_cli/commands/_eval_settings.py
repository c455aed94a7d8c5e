"""The option `--set NAME.KEY=VALUE` of `apex eval` and of its `prepare` and `reference`, which draw nothing."""

from __future__ import annotations

from typing import Annotated, Any

import typer

FORM = "NAME.KEY=VALUE"
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar=FORM, help="A setting of a suite, or of --model as model.KEY."),
]
SetOfSuite = Annotated[list[str] | None, typer.Option("--set", metavar=FORM, help="A setting of a suite.")]


def settings(given: list[str]) -> dict[str, dict[str, Any]]:
    """`NAME.KEY=VALUE` -> {NAME: {KEY: VALUE}}; a further dot in KEY goes deeper, values are TOML or else text."""
    import tomllib

    from apex_cli.errors import UsageError

    found: dict[str, dict[str, Any]] = {}
    for text in given:
        path, equals, value = text.partition("=")
        name, keys = _split_name(path)
        if not (equals and name and keys):
            raise UsageError(f"--set {text}: not a setting.", "Write NAME.KEY=VALUE, e.g. shapes.split=compose.")
        try:
            read = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            read = value
        *above, last = keys.split(".")
        inner = found.setdefault(name, {})
        for key in above:
            inner = inner.setdefault(key, {})
            if not isinstance(inner, dict):
                raise UsageError(f"--set {text}: '{key}' is set to a value too.", "Set one of them.")
        inner[last] = read
    return found


def _split_name(path: str) -> tuple[str, str]:
    """Name and keys. The name of a protocol may hold a dot after its `@`, so the longest known one counts."""
    from apex_cli.registry import names

    known = [name for name in [*names("protocol"), "model"] if path.startswith(f"{name}.")]
    name = max(known, key=len, default=path.partition(".")[0])
    return name, path.removeprefix(name).removeprefix(".")
