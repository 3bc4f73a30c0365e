"""How the process logs: to stderr, as text or one JSON object a line. The root logger is left alone."""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime

__all__ = ["set_up_logging"]

_TEXT = "%(asctime)s - %(name)s - %(levelname)s - %(message)s"


class _JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, **fields: str) -> None:
        super().__init__()
        self._fields = fields

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        told = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            **self._fields,
        }
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False)


def set_up_logging(level: str, style: str, **fields: str) -> None:
    """Sends what `cascade.*` logs to stderr.

    Args:
        level: "debug", "info", "warning" or "error".
        style: "text" or "json".
        fields: added to every JSON object.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(**fields) if style == "json" else logging.Formatter(_TEXT))
    logger = logging.getLogger("cascade")
    logger.handlers[:] = [handler]
    logger.setLevel(level.upper())
    logger.propagate = False
