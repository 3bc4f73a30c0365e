"""Files that are mapped."""

from __future__ import annotations

import mmap
import os
from typing import Any

__all__ = ["map_file", "reserve"]


def map_file(path: str) -> Any:
    """A file's bytes, mapped read-only; they live as long as anything that was loaded from them."""
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def reserve(fd: int, size: int) -> None:
    """Makes room before a byte is written: a full tmpfs is an error here and a SIGBUS in a mapped page.

    Raises:
        OSError: there is no room.
    """
    if not size:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:
        os.ftruncate(fd, size)
