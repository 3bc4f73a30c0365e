"""Where the console script ``cascade-scheduler`` begins."""

from __future__ import annotations

import sys
from typing import NoReturn

__all__ = ["main"]


def main() -> NoReturn:
    """The console script. Importing the rest takes a moment, in which Ctrl-C is no error either."""
    try:
        from cascade_scheduler.__main__ import main as command

        sys.exit(command())
    except KeyboardInterrupt:
        sys.exit(130)
