"""Values by their content, and the code in them by its hash: for keys that hold in every process."""

from __future__ import annotations

from typing import Any

from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.encoding import Encoder, Unencodable

__all__ = ["ContentEncoder"]


class ContentEncoder(Encoder):
    """Writes values, and code in them by its hash; refuses what has no canonical form.

    Args:
        hasher: hashes code, and remembers what it has hashed.
    """

    def __init__(self, hasher: CodeHasher) -> None:
        super().__init__()
        self._hasher = hasher

    def reference(self, value: Any, out: bytearray) -> None:
        """Appends the hash of a function, a class or a module's member."""
        hashed = self._hasher.hash(value)
        if hashed.reason:
            raise Unencodable(hashed.reason)
        out += hashed.digest

    def unknown(self, value: Any, out: bytearray) -> None:
        """Refuses a value without an encoding."""
        kind = type(value)
        raise Unencodable(f"a {kind.__module__}.{kind.__qualname__}, whose content has no canonical form")
