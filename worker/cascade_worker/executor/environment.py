"""Variables that change with every task.

`os.environ` sets one with setenv(3), which keeps every value that there ever was: some 80 bytes for every
task. These are written in place instead, into memory that putenv(3) was given once.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

__all__ = ["set_variable"]

_BYTES_MAX = 1024
# As os.fsencode does it, which looks at more than strings.
_ENCODING, _ERRORS = sys.getfilesystemencoding(), sys.getfilesystemencodeerrors()

_buffers: dict[str, _Buffer] = {}
_data: dict[bytes, bytes] | None = getattr(os.environ, "_data", None)
"""What `os.environ` shows."""


class _Buffer:
    """The memory of one variable."""

    __slots__ = ("address", "data", "key", "view")

    def __init__(self, key: bytes) -> None:
        made = ctypes.create_string_buffer(_BYTES_MAX)
        self.key = key
        self.address = ctypes.addressof(made)
        self.view = memoryview(made).cast("B")
        """Keeps the memory."""
        self.data: bytes | None = None
        """The value, as `os.environ` was given it here."""


def _find_putenv() -> Any:
    try:
        found = ctypes.CDLL(None).putenv
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_void_p,)
    found.restype = ctypes.c_int
    return found


_putenv = _find_putenv()


def set_variable(name: str, value: str) -> None:
    """Sets a variable of this process and of those that it starts, without using memory again and again.

    Args:
        name: of the variable.
        value: its value.
    """
    data = value.encode(_ENCODING, _ERRORS)
    buffer = _buffers.get(name)
    if buffer is None:
        buffer = _buffers[name] = _Buffer(os.fsencode(name))
    text = b"%b=%b\0" % (buffer.key, data)
    if _putenv is None or _data is None or len(text) > _BYTES_MAX or b"\0" in data:
        os.environ[name] = value
        return
    buffer.view[: len(text)] = text
    if _data.get(buffer.key) is not buffer.data:  # a task has set or deleted it, or it is new
        _putenv(buffer.address)
    buffer.data = _data[buffer.key] = data
