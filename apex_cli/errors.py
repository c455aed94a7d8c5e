"""Errors a user can act on: one clear sentence, the remedy, and the exit code of the process.

0 ok · 1 a bug of ours · 2 usage or recipe · 3 data · 4 environment · 5 out of memory · 6 numerical failure
7 disk or file access · 8 invalid checkpoint · 9 regression found · 130/143 stopped by Ctrl-C/SIGTERM, all saved
"""

from __future__ import annotations


class ApexError(Exception):
    """Root of the tree; `message` says what is wrong, `remedy` what to do about it."""

    exit_code = 1

    def __init__(self, message: str, remedy: str = ""):
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(ApexError):
    """A command line, recipe key or value that cannot be right."""

    exit_code = 2


class DataError(ApexError):
    """Prompts or images that cannot be used."""

    exit_code = 3


class SetupError(ApexError):
    """A missing package, model folder, network or device."""

    exit_code = 4


class MemoryLimitError(ApexError):
    """The plan or the run needs more memory than there is."""

    exit_code = 5


class NumericalError(ApexError):
    """A loss, gradient or weight that is not finite."""

    exit_code = 6


class StorageError(ApexError):
    """A folder that cannot be written or a disk that is full."""

    exit_code = 7


class CheckpointError(ApexError):
    """A checkpoint that is incomplete, altered, of another model, or in a format we refuse to open."""

    exit_code = 8


class RegressionFound(ApexError):
    """A gate set by the user (evaluation or benchmark) was not met."""

    exit_code = 9


class Stopped(ApexError):
    """SIGINT or SIGTERM arrived; the state was saved first. `exit_code` is 128 + signal number."""

    def __init__(self, signal_number: int, message: str, remedy: str = ""):
        super().__init__(message, remedy)
        self.exit_code = 128 + signal_number
