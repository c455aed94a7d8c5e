"""How an optional group of packages is installed: in a checkout by its script, else by pip."""

from __future__ import annotations

from pathlib import Path

PACKAGE = "apex_cli"
CHECKOUT = Path(__file__).resolve().parents[1]
"""Where pyproject.toml is, unless a wheel is installed."""


def install(extra: str) -> str:
    """The command."""
    checkout = (CHECKOUT / "scripts" / "setup").is_file()
    return f"scripts/setup {extra}" if checkout else f"pip install '{PACKAGE}[{extra}]'"
