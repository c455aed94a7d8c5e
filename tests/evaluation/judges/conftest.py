"""The tests of this folder talk to a judge over HTTP."""

from scripted_judge import serve  # noqa: F401
