"""The forms of stored results."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.codec.cid import cid_of
from cascade_dist.storage.records import (
    BlobRecord,
    ObjectRecord,
    Record,
    RecordError,
    decode_record,
    encode_record,
)

RECORDS = st.one_of(
    st.binary(max_size=50).map(lambda data: pickle.dumps(data, protocol=5)),
    st.builds(BlobRecord, st.binary().map(cid_of), st.integers(0, 2**63)),
    st.builds(ObjectRecord, st.integers(0, 2**64 - 1), st.integers(0, 2**63), st.text(), st.text()),
)


@given(RECORDS)
def test_round_trip(record: Record) -> None:
    assert decode_record(encode_record(record)) == record


def test_references_begin_with_a_byte_that_no_pickle_begins_with() -> None:
    assert encode_record(BlobRecord(cid_of(b""), 0))[:1] == b"\0"
    with pytest.raises(RecordError, match="0x00"):
        encode_record(b"\0no pickle")


@pytest.mark.parametrize(
    "data", [b"\0", b"\0{}", b"\0[1]", b'\0{"blob": "x", "size": 1}', b'\0{"object": 1}']
)
def test_an_unknown_reference_is_refused(data: bytes) -> None:
    with pytest.raises(RecordError, match="unknown form"):
        decode_record(data)
