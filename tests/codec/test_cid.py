"""Content ids are those that IPFS gives."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_dist.codec.cid import (
    CHUNK_BYTES,
    CID_BYTES,
    LINKS_MAX,
    CidHasher,
    cid_from_text,
    cid_of,
    cid_of_pieces,
    cid_to_text,
)

LOREM = (
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit. Nunc non imperdiet nunc. Proin ac quam "
    "ut nibh eleifend aliquet. Vestibulum ante ipsum primis in faucibus orci luctus et ultrices "
    "posuere cubilia curae; Sed ligula dolor, imperdiet sagittis arcu et, semper tincidunt urna. "
    "Donec et tempor augue, quis sollicitudin metus. Curabitur semper ullamcorper aliquet. Mauris "
    "hendrerit sodales lectus eget fermentum. Proin sollicitudin vestibulum commodo. Vivamus nec "
    "lectus eu augue aliquet dignissim nec condimentum justo. In hac habitasse platea dictumst. "
    "Mauris vel sem neque.\n\n"
    "Vivamus finibus, enim at lacinia semper, arcu erat gravida lacus, sit amet gravida magna orci "
    "sit amet est. Sed non leo lacus. Nullam viverra ipsum a tincidunt dapibus. Nulla pulvinar ligula"
    " sit amet ante ultrices tempus. Proin purus urna, semper sed lobortis quis, gravida vitae ipsum."
    " Aliquam mi urna, pulvinar eu bibendum quis, convallis ac dolor. In gravida justo sed risus "
    "ullamcorper, vitae luctus massa hendrerit. Pellentesque habitant amet."
)

# Made by `ipfs add --cid-version=1 --chunker=size-256`: four leaves of 256 bytes and one of two.
LOREM_CID = "bafybeigcisqd7m5nf3qmuvjdbakl5bdnh4ocrmacaqkpuh77qjvggmt2sa"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"),
        (b"hello world", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
        (b"hello world\n", "bafkreifjjcie6lypi6ny7amxnfftagclbuxndqonfipmb64f2km2devei4"),
        (b"hello application/vnd.ipld.car\n", "bafkreifkam6ns4aoolg3wedr4uzrs3kvq66p4pecirz6y2vlrngla62mxm"),
    ],
)
def test_one_chunk_is_a_raw_block(data: bytes, text: str) -> None:
    assert cid_to_text(cid_of(data)) == text
    assert cid_from_text(text) == cid_of(data)
    hasher = CidHasher()
    hasher.update(data)
    assert hasher.digest() == cid_of(data)


def test_several_chunks_are_a_tree_as_kubo_makes_it() -> None:
    data = LOREM.encode()
    assert len(data) == 1026
    hasher = CidHasher(chunk_bytes=256)
    hasher.update(data)
    assert cid_to_text(hasher.digest()) == LOREM_CID


def slow_cid(data: bytes, chunk: int, links: int) -> bytes:
    """The same by the book: leaves first, then level by level."""

    def number(value: int) -> bytes:
        if value < 128:
            return bytes([value])
        return bytes([value % 128 + 128]) + number(value // 128)

    def field(tag: int, content: bytes) -> bytes:
        return bytes([tag << 3 | 2]) + number(len(content)) + content

    level = []
    for start in range(0, max(len(data), 1), chunk):
        leaf = data[start : start + chunk]
        level.append((b"\x01\x55\x12\x20" + sha256(leaf).digest(), len(leaf), len(leaf)))
    while len(level) > 1:
        above = []
        for start in range(0, len(level), links):
            children = level[start : start + links]
            block = b""
            file_size = tree_size = 0
            sizes = b""
            for cid, file_bytes, tree_bytes in children:
                block += field(2, field(1, cid) + field(2, b"") + b"\x18" + number(tree_bytes))
                sizes += b"\x20" + number(file_bytes)
                file_size += file_bytes
                tree_size += tree_bytes
            block += field(1, b"\x08\x02\x18" + number(file_size) + sizes)
            above.append((b"\x01\x70\x12\x20" + sha256(block).digest(), file_size, tree_size + len(block)))
        level = above
    return level[0][0]


def patterned(size: int) -> bytes:
    """Bytes in which no two chunks are alike."""
    return b"".join(sha256(number.to_bytes(4, "big")).digest() for number in range(size // 32 + 1))[:size]


@pytest.mark.parametrize(
    "size", [CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5]
)
def test_borders_of_chunks(size: int) -> None:
    data = patterned(size)
    assert cid_of(data) == slow_cid(data, CHUNK_BYTES, LINKS_MAX)
    assert cid_to_text(cid_of(data)).startswith("bafkrei" if size <= CHUNK_BYTES else "bafybei")


@pytest.mark.parametrize(
    "leaves", [1, 2, 173, 174, 175, 176, 347, 348, 349, 174 * 174 - 1, 174 * 174, 174 * 174 + 1, 174 * 175]
)
def test_borders_of_levels(leaves: int) -> None:
    for size in (16 * leaves, 16 * leaves - 15):
        data = patterned(size)
        hasher = CidHasher(chunk_bytes=16)
        hasher.update(data)
        assert hasher.digest() == slow_cid(data, 16, LINKS_MAX)


@settings(deadline=None)
@given(
    size=st.integers(0, 700),
    chunk=st.integers(1, 20),
    links=st.integers(2, 5),
    cuts=st.lists(st.integers(1, 50), max_size=40),
)
def test_pieces_of_any_size_give_one_id(size: int, chunk: int, links: int, cuts: list[int]) -> None:
    data = patterned(size)
    hasher = CidHasher(chunk_bytes=chunk, links_max=links)
    at = 0
    for cut in [*cuts, size]:
        hasher.update(memoryview(data)[at : at + cut])
        hasher.digest()  # looking does not disturb
        at += cut
    assert hasher.size == size
    assert hasher.digest() == slow_cid(data, chunk, links)


def test_large_bytes_in_pieces() -> None:
    data = patterned(1 << 20)
    assert cid_of_pieces(data[at : at + 100_000] for at in range(0, len(data), 100_000)) == cid_of(data)
    assert cid_of(bytearray(data)) == cid_of(memoryview(data)) == cid_of(data)


@given(digest=st.binary(min_size=32, max_size=32), kind=st.sampled_from([b"\x55", b"\x70"]))
def test_text_and_back(digest: bytes, kind: bytes) -> None:
    cid = b"\x01" + kind + b"\x12\x20" + digest
    assert len(cid) == CID_BYTES
    text = cid_to_text(cid)
    assert text[0] == "b"
    assert text == text.lower()
    assert "=" not in text
    assert cid_from_text(text) == cid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWnPbdG",
        "bafk!",
        "BAFKREIHDWDCE",
        "bafkreihdwdce",
        "zb2rh",
    ],
)
def test_text_that_is_no_content_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no content id"):
        cid_from_text(text)
