"""Content ids: the CID that IPFS gives a file, computed here without any node.

The layout is fixed, so that a blob has one id in every store: UnixFS file, balanced tree, chunks of 262,144
bytes, at most 174 links a node, raw leaves, sha2-256, CIDv1. One chunk is a raw block; more are a dag-pb
tree.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from hashlib import sha256

__all__ = [
    "CHUNK_BYTES",
    "CID_BYTES",
    "LINKS_MAX",
    "CidHasher",
    "cid_from_text",
    "cid_of",
    "cid_of_pieces",
    "cid_to_text",
]

CHUNK_BYTES = 262_144
LINKS_MAX = 174
CID_BYTES = 36
"""Length of a binary CID."""

_RAW = b"\x01\x55\x12\x20"  # version 1, raw block, sha2-256, 32 bytes
_DAG_PB = b"\x01\x70\x12\x20"

# A node of the tree as its parent sees it: CID, bytes of file below it, bytes of blocks below it and itself.
_Link = tuple[bytes, int, int]


def cid_of(data: bytes | bytearray | memoryview) -> bytes:
    """The binary CID of some bytes."""
    if len(data) <= CHUNK_BYTES:
        return _RAW + sha256(data).digest()
    hasher = CidHasher()
    hasher.update(data)
    return hasher.digest()


def cid_of_pieces(pieces: Iterable[bytes | bytearray | memoryview]) -> bytes:
    """The binary CID of bytes that come in pieces of any size."""
    hasher = CidHasher()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest()


class CidHasher:
    """Computes a CID from a stream, in memory for one chunk and a link per chunk of the lowest open node.

    `chunk_bytes` and `links_max` are there for tests; any other value gives ids that no store agrees with.
    """

    def __init__(self, *, chunk_bytes: int = CHUNK_BYTES, links_max: int = LINKS_MAX) -> None:
        self._chunk_bytes = chunk_bytes
        self._links_max = links_max
        self._hash = sha256()
        self._filled = 0
        self._levels: list[list[_Link]] = [[]]
        self.size = 0
        """Bytes taken so far."""

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Takes the next bytes."""
        view = memoryview(data).cast("B") if not isinstance(data, bytes | bytearray) else memoryview(data)
        total = len(view)
        self.size += total
        at = 0
        while at < total:
            if self._filled == self._chunk_bytes:
                self._close_chunk()
            take = min(self._chunk_bytes - self._filled, total - at)
            self._hash.update(view[at : at + take])
            self._filled += take
            at += take

    def digest(self) -> bytes:
        """The binary CID of everything taken; the hasher can go on after it."""
        last = (_RAW + self._hash.copy().digest(), self._filled, self._filled)
        levels = [list(level) for level in self._levels]
        if self._filled or not self.size:
            self._add(levels, 0, last)
        height = 0
        while height < len(levels) - 1 or len(levels[height]) > 1:  # adding may open levels
            self._add(levels, height + 1, _node(levels[height]))
            height += 1
        return levels[height][0][0]

    def _close_chunk(self) -> None:
        link = (_RAW + self._hash.digest(), self._filled, self._filled)
        self._add(self._levels, 0, link)
        self._hash = sha256()
        self._filled = 0

    def _add(self, levels: list[list[_Link]], height: int, link: _Link) -> None:
        """Adds a link to a level. A full level moves up when one more comes: a lone full node is a root."""
        while True:
            if height == len(levels):
                levels.append([])
            links = levels[height]
            if len(links) < self._links_max:
                links.append(link)
                return
            full = _node(links)
            levels[height] = [link]
            link = full
            height += 1


def _node(links: list[_Link]) -> _Link:
    """The tree node over some links: a dag-pb block with UnixFS data."""
    file_size = sum(size for _, size, _ in links)
    unixfs = bytearray(b"\x08\x02\x18") + _varint(file_size)
    block = bytearray()
    for cid, size, tree_size in links:
        unixfs += b"\x20" + _varint(size)
        link = b"\x0a\x24" + cid + b"\x12\x00\x18" + _varint(tree_size)
        block += b"\x12" + _varint(len(link)) + link
    block += b"\x0a" + _varint(len(unixfs)) + unixfs
    return _DAG_PB + sha256(block).digest(), file_size, len(block) + sum(size for _, _, size in links)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def cid_to_text(cid: bytes) -> str:
    """A CID as people write it: ``bafk…`` for one chunk, ``bafy…`` for a tree."""
    return "b" + base64.b32encode(cid).decode("ascii").rstrip("=").lower()


def cid_from_text(text: str) -> bytes:
    """The binary form of a CID in text.

    Raises:
        ValueError: it is not a CIDv1 in base32 with a sha2-256 hash.
    """
    wrong = ValueError(
        f"{text[:80]!r} is no content id: a CIDv1 in lower-case base32 is wanted, such as bafk… or bafy…"
    )
    if not text.startswith("b") or text != text.lower():
        raise wrong
    body = text[1:].upper()
    try:
        cid = base64.b32decode(body + "=" * (-len(body) % 8))
    except binascii.Error:
        raise wrong from None
    if len(cid) != CID_BYTES or cid[:4] not in (_RAW, _DAG_PB):
        raise wrong
    return cid
