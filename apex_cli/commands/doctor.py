"""`apex doctor`: what this machine has, what it lacks, and the commands that mend it."""

from __future__ import annotations

from dataclasses import asdict

import typer

from apex_cli.commands._ui import Json, emit, table


def doctor(as_json: Json = False) -> None:
    """Check this machine: libraries, device, disk, hub, and what each shipped recipe would miss.

    Exits with 4 if the embedded world, and so any command, would fail here; what only larger models need is a note.
    """
    from apex_cli.doctor import examine
    from apex_cli.errors import SetupError

    findings = examine()
    failed = any(finding.state == "problem" for finding in findings)
    if as_json:
        emit({"ok": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        table(("STATE", "WHAT", "FOUND", "FIX"), [(f.state, f"{f.topic} {f.name}", f.found, f.fix) for f in findings])
    if failed:
        raise typer.Exit(SetupError.exit_code)
