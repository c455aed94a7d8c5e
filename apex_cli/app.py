"""The command `apex`: a table of commands, and the one place where errors become a sentence and an exit code.

A new command is one line in `COMMANDS`. Its module imports only typer and the standard library at the top, and what it
needs of the engine inside its function, so that `apex --help` stays fast.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import Abort, TyperException

from apex_cli import __version__, errors
from apex_cli.errors import ApexError, MemoryLimitError, StorageError, UsageError

COMMANDS = {
    "synth-data": "apex_cli.commands.synth_data:synth_data",
    "data": "apex_cli.commands.data:app",
    "train": "apex_cli.commands.train:train",
    "sample": "apex_cli.commands.sample:sample",
    "ckpt": "apex_cli.commands.ckpt:app",
    "eval": "apex_cli.commands.eval:app",
    "bench": "apex_cli.commands.bench:app",
    "recipes": "apex_cli.commands.recipes:app",
    "cache": "apex_cli.commands.cache:app",
    "doctor": "apex_cli.commands.doctor:doctor",
}
"""Name -> "module:function" (or a `typer.Typer` with subcommands), in the order of the help."""

DISK_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
}
INTERRUPTED = 130
EXIT_CODES = [code.strip() for line in (errors.__doc__ or "").splitlines()[2:] for code in line.split("·")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"apex {__version__}")
        raise typer.Exit()


def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Turn a flow-matching text-to-image model into a one-step model."""


def build() -> typer.Typer:
    """The typer application with every command of the table."""
    app = typer.Typer(
        name="apex",
        callback=root,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        epilog="\n".join(["\b", "Exit codes:", *(f"  {code}" for code in EXIT_CODES if code)]),
    )
    for name, place in COMMANDS.items():
        module, attribute = place.split(":")
        target = getattr(importlib.import_module(module), attribute)
        if isinstance(target, typer.Typer):
            app.add_typer(target, name=name)
        else:
            app.command(name)(target)
    return app


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return the exit code of the process; the only place that catches errors."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        code = typer.main.get_command(build()).main(argv, prog_name="apex", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # what typer makes of Ctrl-C
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to flush at exit
        return 1
    except (KeyboardInterrupt, Abort):
        return _show(ApexError("Interrupted."), INTERRUPTED, argv)
    except Exception as error:
        if os.environ.get("APEX_TRACEBACK"):
            traceback.print_exc()
        told = translate(error)
        return _show(told, told.exit_code, argv)


def translate(error: Exception) -> ApexError:
    """Any exception as an error with a sentence, a remedy and an exit code."""
    if isinstance(error, ApexError):
        return error
    if isinstance(error, TyperException):
        return _usage(error)
    if _is_out_of_memory(error):
        remedy = "Use a smaller batch or resolution, gradient checkpointing, or LoRA instead of full tuning."
        return MemoryLimitError(f"Out of memory: {_first_line(error)}", remedy)
    if isinstance(error, OSError) and error.errno in DISK_ERRORS:
        remedy = "Free some space, or choose a folder that you may write to."
        return StorageError(
            f"{error.strerror}: '{error.filename}'." if error.filename else f"{error.strerror}.", remedy
        )
    remedy = "This is a bug of apex. Run again with APEX_TRACEBACK=1 for the traceback and report it."
    return ApexError(f"{type(error).__name__}: {_first_line(error)}", remedy)


def _usage(error: TyperException) -> ApexError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "apex"
    message = error.format_message().strip()
    return UsageError(message, "" if message.startswith("Usage:") else f"See `{path} --help`.")


def _is_out_of_memory(error: Exception) -> bool:
    named = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"  # torch is not imported here
    return named or "DefaultCPUAllocator" in str(error)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or ["no message"])[0]


def _show(error: ApexError, code: int, argv: Sequence[str]) -> int:
    if "--json" in argv:
        print(json.dumps({"error": {"message": error.message, "remedy": error.remedy, "exit_code": code}}))
    else:
        print("\n-> ".join(filter(None, (error.message, error.remedy))), file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
