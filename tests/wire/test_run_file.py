"""Run files: what is written comes back in whatever pieces; what is not whole, or not ours, is refused."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.errors import RunFileError
from cascade_dist.v1 import runfile_pb2 as pb
from cascade_dist.wire.run_file import FORMAT, MAGIC, PART_BYTES_MAX, RunFileReader, RunFileWriter

PARTS = [
    pb.RunFilePart(run=pb.RunFileRun(run_id="r")),
    pb.RunFilePart(chunk=b"c" * 300),
    pb.RunFilePart(graph_end=b"e"),
    pb.RunFilePart(skip=pb.RunFileSkip(node_id="aa", reason="Pruned")),
]


def made(parts: list[pb.RunFilePart]) -> bytes:
    writer = RunFileWriter()
    return b"".join([writer.begin(), *map(writer.part, parts), writer.end()])


def read(data: bytes, piece: int = 1 << 20) -> list[pb.RunFilePart]:
    reader = RunFileReader("a.run")
    found: list[pb.RunFilePart] = []
    for at in range(0, len(data), piece):
        found += reader.feed(data[at : at + piece])
    reader.finish()
    return found


@given(st.integers(1, 400))
def test_parts_come_back_whatever_the_pieces(piece: int) -> None:
    assert read(made(PARTS), piece) == PARTS


def test_every_changed_byte_is_noticed() -> None:
    data = made(PARTS)
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        with pytest.raises(RunFileError, match=r"a\.run"):
            read(bytes(changed))


def test_every_cut_is_noticed() -> None:
    data = made(PARTS)
    for size in range(len(data)):
        with pytest.raises(RunFileError, match=r"a\.run is cut short"):
            read(data[:size])


def test_bytes_behind_the_end_are_noticed() -> None:
    with pytest.raises(RunFileError, match="bytes behind its end"):
        read(made(PARTS) + b"\0")


@pytest.mark.parametrize("data", [b"PK\x03\x04 a zip file, say", b"x", b"\x80\x05K\x01."])
def test_a_foreign_file_is_named(data: bytes) -> None:
    with pytest.raises(RunFileError, match=r"a\.run is no run file .*cascade export"):
        read(data)


def test_line_ends_that_were_changed_make_it_foreign() -> None:
    with pytest.raises(RunFileError, match="no run file"):
        read(made(PARTS).replace(b"\r\n", b"\n"))


def test_a_newer_format_names_both() -> None:
    data = struct.pack(f">{len(MAGIC)}sH", MAGIC, FORMAT + 1) + made(PARTS)[len(MAGIC) + 2 :]
    with pytest.raises(RunFileError, match=rf"format {FORMAT + 1}, .* reads up to {FORMAT}"):
        read(data)


def test_a_kind_of_part_that_is_not_known_is_said() -> None:
    unknown = b"\xfa\x01\x01x"  # field 31
    head = made([])[: len(MAGIC) + 2]
    with pytest.raises(RunFileError, match="a kind that this version"):
        read(head + struct.pack(">I", len(unknown)) + unknown)


def test_a_length_that_cannot_be_is_not_waited_for() -> None:
    head = made([])[: len(MAGIC) + 2]
    with pytest.raises(RunFileError, match="damaged"):
        list(RunFileReader("a.run").feed(head + struct.pack(">I", PART_BYTES_MAX + 1)))


def test_a_part_that_is_too_large_is_refused_when_it_is_written() -> None:
    writer = RunFileWriter()
    with pytest.raises(RunFileError, match="a chunk of the run"):
        writer.part(pb.RunFilePart(chunk=bytes(PART_BYTES_MAX)))


def test_the_digest_is_over_all_that_stands_before_the_end() -> None:
    data = made(PARTS)
    end = pb.RunFilePart()
    end.ParseFromString(data[-end_size(data) :])
    assert end.end.parts == len(PARTS)
    assert end.end.sha256 == hashlib.sha256(data[: -end_size(data) - 4]).digest()


def end_size(data: bytes) -> int:
    """Of the last part, without its length: 32 bytes of digest and what frames them."""
    part = pb.RunFilePart(end=pb.RunFileEnd(parts=len(PARTS), sha256=bytes(32)))
    return part.ByteSize()
