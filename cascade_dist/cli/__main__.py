"""The entry point of ``cascade``.

Exit codes: 0 ok; 1 a run or a call failed; 2 wrong usage; 130 Ctrl-C.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn, cast

import typer
import typer.main

from cascade_dist.cli import blobs, constraints, upkeep  # noqa: F401 - their commands
from cascade_dist.cli.app import app, common
from cascade_dist.errors import ConfigError

__all__ = ["main", "run"]

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

# Newer versions of typer carry a click of their own; these are its classes or the other's.
_UsageError = cast("type[Exception]", typer.BadParameter.__mro__[1])
_ClickException = cast("type[Exception]", typer.BadParameter.__mro__[2])


def run(arguments: Sequence[str] | None = None) -> int:
    """Runs one command line and gives its exit code.

    Args:
        arguments: instead of the process's own.
    """
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # Whoever read has seen enough. Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED


def _run(arguments: Sequence[str] | None) -> int:
    given = None if arguments is None else list(arguments)
    try:
        command = typer.main.get_command(app)
        code = command.main(args=given, prog_name="cascade", standalone_mode=False)
        return code if isinstance(code, int) else OK
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except _ClickException as error:
        error.show()  # type: ignore[attr-defined]
        return USAGE if isinstance(error, _UsageError) else FAILED
    except BaseException as error:
        if isinstance(error, (SystemExit, GeneratorExit)):
            raise
        _show(error)
        return USAGE if isinstance(error, ConfigError) else FAILED


def _show(error: BaseException) -> None:
    """One line about an error; all of it with --debug."""
    if common.debug:
        traceback.print_exception(error)
        return
    kind = type(error)
    message = str(error).strip() or kind.__name__
    named = message if kind.__module__.startswith("cascade_dist") else f"{kind.__name__}: {message}"
    notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
    line = f"{named}{notes}".replace("\n", " | ")
    print(f"error: {line}", file=sys.stderr)


def main() -> NoReturn:
    """The console script."""
    sys.exit(run())


if __name__ == "__main__":
    main()
