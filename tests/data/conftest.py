"""Tiny runs for the tests of this folder."""

from tiny_runs import once, own_cache  # noqa: F401
