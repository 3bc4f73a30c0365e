"""Variables that change with every task.

`os.environ` sets one with setenv(3), which keeps every value that there ever was: some 80 bytes for every
task. These are written in place instead, into memory that putenv(3) was given once.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

__all__ = ["set_variable"]

_BYTES_MAX = 1024

_buffers: dict[str, tuple[ctypes.Array[ctypes.c_char], int, bytes]] = {}
"""By name: memory, its address and the name as it is written."""
_data: dict[bytes, bytes] | None = getattr(os.environ, "_data", None)
"""What `os.environ` shows."""


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
    data = os.fsencode(value)
    known = _buffers.get(name)
    if known is None:
        made = ctypes.create_string_buffer(_BYTES_MAX)
        known = _buffers[name] = made, ctypes.addressof(made), os.fsencode(name)
    buffer, address, key = known
    text = b"%b=%b" % (key, data)
    if _putenv is None or _data is None or len(text) >= _BYTES_MAX or b"\0" in data:
        os.environ[name] = value
        return
    buffer.value = text
    _putenv(address)  # each time: a task may have set or deleted it
    _data[key] = data
