"""How a value key is made of its parts: by clients where all is known at submit, else by the scheduler."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

__all__ = ["KEY_BYTES", "key_of_parts"]

KEY_BYTES = 16


def key_of_parts(parts: Iterable[tuple[str, bytes]]) -> bytes:
    """16 bytes over parts: each a name, and a digest of 16 bytes, in order."""
    hasher = blake2b(digest_size=KEY_BYTES)
    for name, digest in parts:
        encoded = name.encode()
        hasher.update(len(encoded).to_bytes(4, "little"))
        hasher.update(encoded)
        hasher.update(digest)
    return hasher.digest()
