"""Run files: the frame around the parts of an exported run, and the digest over them. No I/O.

The layout is that of proto/cascade_dist/v1/runfile.proto.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from cascade_dist.errors import RunFileError
from cascade_dist.v1.runfile_pb2 import RunFilePart

__all__ = ["FORMAT", "PART_BYTES_MAX", "PIECE_BYTES", "RunFileReader", "RunFileWriter"]

MAGIC = b"\x93CASCRUN\r\n\x1a\n"
"""Begins with a byte that is no text, and has the line ends that a careless transfer changes."""
FORMAT = 1
PART_BYTES_MAX = 32 << 20
"""Of one part: more than any message of a submit."""
PIECE_BYTES = 1 << 20
"""In which files travel."""
_HEAD = struct.Struct(f">{len(MAGIC)}sH")
_LENGTH = struct.Struct(">I")


class RunFileWriter:
    """Makes the bytes of a run file, part by part."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()
        self._parts = 0

    def begin(self) -> bytes:
        """What stands before all parts."""
        return self._counted(_HEAD.pack(MAGIC, FORMAT))

    def part(self, part: RunFilePart) -> bytes:
        """A part.

        Raises:
            RunFileError: it is too large.
        """
        data = part.SerializeToString()
        if len(data) > PART_BYTES_MAX:
            kind = part.WhichOneof("part")
            raise RunFileError(
                f"a {kind} of the run has {len(data):,} bytes; a run file takes {PART_BYTES_MAX:,}"
            )
        self._parts += 1
        return self._counted(_LENGTH.pack(len(data)) + data)

    def end(self) -> bytes:
        """The last part."""
        part = RunFilePart()
        part.end.parts, part.end.sha256 = self._parts, self._digest.digest()
        return _LENGTH.pack(part.ByteSize()) + part.SerializeToString()

    def _counted(self, data: bytes) -> bytes:
        self._digest.update(data)
        return data


class RunFileReader:
    """Checks a run file and takes it apart, however its bytes come.

    Args:
        name: of the file, for errors.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._parts = 0
        self._begun = False
        self.ended = False
        """The end has come, and the digest fits."""

    def feed(self, data: bytes) -> Iterator[RunFilePart]:
        """The parts that are whole by now, but for the end; what they say holds when `ended` does.

        Raises:
            RunFileError: it is no run file, of a newer format, or damaged.
        """
        self._buffer += data
        if not self._begun and not self._begin():
            return
        while len(self._buffer) >= _LENGTH.size:
            if self.ended:
                break
            (size,) = _LENGTH.unpack_from(self._buffer)
            if size > PART_BYTES_MAX:
                raise RunFileError(f"{self._name} is damaged: it has a part of {size:,} bytes")
            whole = _LENGTH.size + size
            if len(self._buffer) < whole:
                return
            raw = bytes(self._buffer[:whole])
            del self._buffer[:whole]
            part = self._parsed(raw[_LENGTH.size :])
            if part.HasField("end"):
                self._check_end(part)
                continue
            self._digest.update(raw)
            self._parts += 1
            yield part
        if self.ended and self._buffer:
            raise RunFileError(f"{self._name} is damaged: there are bytes behind its end")

    def finish(self) -> None:
        """All bytes have come.

        Raises:
            RunFileError: the file is cut short.
        """
        if self.ended:
            return
        if not self._begun:
            if not MAGIC.startswith(bytes(self._buffer[: len(MAGIC)])):
                raise self._foreign()
            raise RunFileError(f"{self._name} is cut short: it has only {len(self._buffer)} bytes")
        raise RunFileError(
            f"{self._name} is cut short: it ends after {self._parts:,} whole parts, before its end; copy or "
            "export it again"
        )

    def _begin(self) -> bool:
        if len(self._buffer) < _HEAD.size:
            return False
        magic, number = _HEAD.unpack_from(self._buffer)
        if magic != MAGIC:
            raise self._foreign()
        if number > FORMAT:
            raise RunFileError(
                f"{self._name} has format {number}, and this version of cascade-dist reads up to {FORMAT}: "
                "import it with the version that exported it, or a later one"
            )
        self._digest.update(self._buffer[: _HEAD.size])
        del self._buffer[: _HEAD.size]
        self._begun = True
        return True

    def _foreign(self) -> RunFileError:
        found = bytes(self._buffer[:8])
        return RunFileError(
            f"{self._name} is no run file (it begins with {found!r}): give one that `cascade export` made"
        )

    def _parsed(self, data: bytes) -> RunFilePart:
        try:
            part = RunFilePart.FromString(data)
        except DecodeError:
            raise RunFileError(f"{self._name} is damaged: part {self._parts + 1} cannot be read") from None
        if part.WhichOneof("part") is None:
            raise RunFileError(
                f"{self._name} has a part of a kind that this version of cascade-dist does not know: import "
                "it with the version that exported it, or a later one"
            )
        return part

    def _check_end(self, part: RunFilePart) -> None:
        end = part.end
        if end.parts != self._parts or end.sha256 != self._digest.digest():
            raise RunFileError(
                f"{self._name} is damaged: its digest does not fit its bytes; copy or export it again"
            )
        self.ended = True
