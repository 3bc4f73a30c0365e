"""Where the console script ``cascade`` begins."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

__all__ = ["main"]

INTERRUPTED = 130


def main() -> None:
    """The console script. Importing the rest takes a moment, in which Ctrl-C is no error either."""
    try:
        before = signal.getsignal(signal.SIGINT)
        if before is signal.default_int_handler:  # else it is ignored, and stays so
            signal.signal(signal.SIGINT, _quit)
        from cascade_dist.cli.__main__ import main as command

        signal.signal(signal.SIGINT, before)
        command()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _quit(number: int, frame: FrameType | None) -> None:
    """No exception: code that an import runs may catch or lose it. There is nothing to tidy up yet."""
    os._exit(INTERRUPTED)
