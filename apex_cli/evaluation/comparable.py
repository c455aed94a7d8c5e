"""What two numbers must have in common before they stand beside each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apex_cli.errors import UsageError
from apex_cli.evaluation.records import Report, Result

FILES = {"file", "answers"}
"""In the identity of a recorded detector or judge: the record itself, which is another one for other pictures."""


def judge(result: Result) -> dict[str, Any]:
    """Who judged, stage by stage."""
    return {
        stage: {key: value for key, value in identity.items() if key not in FILES}
        for stage, identity in result.identity.items()
    }


def conditions(report: Report, result: Result) -> dict[str, Any]:
    """Of a number in a table; seeds may differ."""
    return {
        "protocol": result.protocol,
        "judge": judge(result),
        "prompts": report.setting.prompts_sha256,
        "images per prompt": report.setting.n,
        "images": f"{result.found} of {result.expected}",
    }


def require_equal(first: Mapping[str, Any], second: Mapping[str, Any], told: str, remedy: str) -> None:
    """Raise `UsageError`: `told`, and all that differs."""
    unequal = [f"{name} ({first[name]} and {second[name]})" for name in first if first[name] != second[name]]
    if unequal:
        raise UsageError(f"{told}: they differ in {', '.join(unequal)}.", remedy)
