"""Whose pins are whose on an IPFS node, which has one pin with one name for each content id.

A pin is named by who needs it most: a user's own goes before a cache's (which has the bytes nowhere else),
that before a scheduler's, and that before a scheduler's that forgets. Who needs the bytes takes the pin from
those behind, and nobody takes away a pin that has another's name.
"""

from __future__ import annotations

import os
import socket

__all__ = ["CACHE_PINS", "left_by", "may_take", "store_pins"]

CACHE_PINS = "cascade-cache"
_STORES = "cascade-"
_TEMPORARY = "cascade-of-"


def store_pins(temporary: bool, place: str) -> str:
    """The name of a scheduler's pins: of one that forgets with the process that it ends with."""
    host = socket.gethostname()
    return f"{_TEMPORARY}{host}-{os.getpid()}" if temporary else f"{_STORES}{host}-{place}"


def may_take(name: str, theirs: str | None) -> bool:
    """Whether a pin may be given a name.

    Args:
        name: the new one.
        theirs: the one that it has; None: it is not there yet.
    """
    return theirs is None or theirs == name or _rank(theirs) < _rank(name)


def left_by(name: str) -> int | None:
    """The process of this machine that a scheduler's pins end with; None: they are none of those."""
    start, dash, pid = name.rpartition("-")
    return int(pid) if start == f"{_TEMPORARY}{socket.gethostname()}" and dash and pid.isdigit() else None


def _rank(name: str) -> int:
    if name == CACHE_PINS:
        return 2
    if name.startswith(_TEMPORARY):
        return 0
    return 1 if name.startswith(_STORES) else 3
