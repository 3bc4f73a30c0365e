"""Where the scheduler's log lines go: stderr, as text or as JSON. The root logger is left alone."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["set_up_logging"]

TEXT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


class _JsonFormatter(logging.Formatter):
    """One object per line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        line = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logging(level: str, style: str) -> None:
    """Sends what is logged under `cascade` to stderr.

    Args:
        level: debug, info, warning or error.
        style: text or json.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter() if style == "json" else logging.Formatter(TEXT))
    logger = logging.getLogger("cascade")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
