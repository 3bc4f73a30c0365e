"""Payloads: what goes in comes out, and large things are not copied."""

from __future__ import annotations

import mmap
import pickle
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade_dist.codec.pickling import dump
from cascade_dist.codec.values import (
    INLINE_BYTES_MAX,
    Inline,
    ListView,
    Packed,
    PackedList,
    dump_inline_or_packed,
    dump_items,
    is_packed,
    load,
    load_item,
    pack_column,
)
from cascade_dist.errors import ResultSerializationError, SerializationError
from cascade_dist.language.task import task

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.text(max_size=300)
    | st.binary(max_size=300)
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=5)
        | st.frozensets(scalars, max_size=5)
    ),
    max_leaves=20,
)


def written(payload: Inline | Packed) -> bytes:
    """A payload as it would be stored."""
    if isinstance(payload, bytes):
        return payload
    stored = b"".join(payload.buffers())
    assert len(stored) == payload.size
    assert b"".join(payload.pieces()) == stored == payload.to_bytes()
    return stored


def test_large_buffers_are_written_from_where_they_are() -> None:
    array = np.arange(1_000_000)
    payload = dump_inline_or_packed({"a": array, "b": b"x" * 100, "c": [array[:500_000]]})
    assert not isinstance(payload, bytes)
    large = [buffer for buffer in payload.buffers() if len(buffer) > 10_000]
    assert [len(buffer) for buffer in large] == [8_000_000, 4_000_000]
    assert all(np.shares_memory(np.frombuffer(buffer), array) for buffer in large), "no copy is made before"


@given(value=values, inline_max=st.integers(0, 400))
def test_what_goes_in_comes_out(value: Any, inline_max: int) -> None:
    payload = dump_inline_or_packed(value, inline_max)
    if isinstance(payload, bytes):
        assert len(payload) <= inline_max
        assert pickle.loads(payload) == value
    stored = written(payload)
    assert is_packed(stored) == isinstance(payload, Packed)
    loaded = load(stored)
    assert loaded == value
    assert type(loaded) is type(value)


@pytest.mark.parametrize("value", [None, 0, -1, 2**70, 1.5, True, "", "x", b"", b"x" * 20_000, "é" * 20_000])
def test_inline_payloads_are_plain_pickles(value: object) -> None:
    payload = dump_inline_or_packed(value)
    assert isinstance(payload, bytes)
    assert payload[:2] == b"\x80\x05"
    assert pickle.loads(payload) == value


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20_000), max_size=6),
    inline_max=st.sampled_from([0, 1_000, INLINE_BYTES_MAX]),
)
def test_arrays_of_many_sizes(lengths: list[int], inline_max: int) -> None:
    arrays = {f"a{i}": np.arange(n, dtype=np.int32) for i, n in enumerate(lengths)}
    stored = written(dump_inline_or_packed(arrays, inline_max))
    loaded = load(stored)
    assert loaded.keys() == arrays.keys()
    assert all((loaded[name] == arrays[name]).all() for name in arrays)
    assert is_packed(stored) or len(stored) <= inline_max


def mapped(path: Path, payload: Inline | Packed) -> mmap.mmap:
    """A payload in a file that is mapped, as executors do."""
    path.write_bytes(written(payload))
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


def test_arrays_are_read_only_views_of_the_map(tmp_path: Path) -> None:
    value = {"x": np.arange(50_000), "y": [np.ones((100, 100), order="F"), b"small"], "z": bytearray(100_000)}
    payload = dump_inline_or_packed(value)
    assert isinstance(payload, Packed)
    memory = mapped(tmp_path / "object", payload)
    loaded = load(memory)
    assert (loaded["x"] == value["x"]).all()
    assert (loaded["y"][0] == value["y"][0]).all()
    assert loaded["y"][0].flags.f_contiguous
    assert loaded["z"] == value["z"]
    start = np.frombuffer(memory, np.uint8).__array_interface__["data"][0]
    for array in (loaded["x"], loaded["y"][0]):
        offset = array.__array_interface__["data"][0] - start
        assert 0 < offset < payload.size
        assert offset % 64 == 0
        assert not array.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        loaded["x"][0] = 1
    loaded["z"][0] = 1  # a bytearray is for writing, so it is a copy


def test_dumping_does_not_copy_large_buffers() -> None:
    array = np.zeros(1 << 20)
    raw = b"r" * (1 << 20)
    for value in (array, raw, {"k": raw}, [raw, 1]):
        payload = dump_inline_or_packed(value)
        assert isinstance(payload, Packed)
        owners = [np.frombuffer(piece, np.uint8).__array_interface__["data"][0] for piece in payload._parts]
        wanted = np.frombuffer(memoryview(array if value is array else raw), np.uint8)
        assert wanted.__array_interface__["data"][0] in owners


def test_pieces_are_bounded_and_few() -> None:
    payload = dump_inline_or_packed([np.arange(300_000), "x" * 500_000, np.arange(9_000)])
    assert isinstance(payload, Packed)
    pieces = list(payload.pieces(1 << 20))
    assert max(map(len, pieces)) <= 1 << 20
    assert len(pieces) <= payload.size // (1 << 20) + 3
    assert b"".join(pieces) == payload.to_bytes()
    assert b"".join(payload.pieces(1000)) == payload.to_bytes()


def test_arrays_that_are_not_contiguous() -> None:
    value = np.arange(200_000).reshape(400, 500)[:, ::3]
    assert (load(written(dump_inline_or_packed(value))) == value).all()


def test_what_only_cloudpickle_can() -> None:
    def double(x: int) -> int:
        return 2 * x

    class Local:
        def __init__(self) -> None:
            self.f = double

    stored = written(dump_inline_or_packed([double, Local(), np.arange(100_000)]))
    loaded = load(stored)
    assert loaded[0](4) == loaded[1].f(4) == 8
    assert not loaded[2].flags.writeable


# --- inputs -----------------------------------------------------------------------------------------


class Pid(pickle.Pickler):
    """Puts persistent ids in place of strings such as ``@3``."""

    def persistent_id(self, obj: Any) -> Any:
        return int(obj[1:]) if type(obj) is str and obj.startswith("@") else None


def with_pids(value: object) -> bytes:
    import io

    file = io.BytesIO()
    Pid(file, 5).dump(value)
    return file.getvalue()


def test_persistent_ids_are_inputs() -> None:
    marker = object()
    loaded = load(with_pids(["@1", {"k": ("@0", "@1")}]), ["zero", marker])
    assert loaded[0] is loaded[1]["k"][1] is marker
    assert loaded[1]["k"][0] == "zero"


@pytest.mark.parametrize("pid", ["@7", "@-1"])
def test_a_persistent_id_without_input_is_an_error(pid: str) -> None:
    with pytest.raises(pickle.UnpicklingError, match="refers to input"):
        load(with_pids([pid]), ["only"])


# --- lists ------------------------------------------------------------------------------------------


@given(
    items=st.lists(values, max_size=8), inline_max=st.integers(0, 300), kind=st.sampled_from([list, tuple])
)
def test_items_one_by_one_and_all_together(
    items: list[Any], inline_max: int, kind: Callable[[Any], Any]
) -> None:
    split = dump_items(kind(items), inline_max)
    if isinstance(split, list):
        assert [pickle.loads(item) for item in split] == items
        assert sum(map(len, split)) <= inline_max
        return
    assert split.count == len(items)
    stored = written(split)
    assert [load_item(stored, i) for i in range(len(items))] == items
    assert load(stored) == kind(items)
    with pytest.raises(IndexError):
        load_item(stored, len(items))


def test_items_of_arrays_are_views(tmp_path: Path) -> None:
    items = [np.arange(20_000) + i for i in range(5)]
    split = dump_items(items)
    assert isinstance(split, PackedList)
    memory = mapped(tmp_path / "list", split)
    for i in range(5):
        item = load_item(memory, i)
        assert (item == items[i]).all()
        assert not item.flags.writeable
    assert len(load(memory)) == 5


@pytest.mark.parametrize(
    "value", [np.arange(60_000).reshape(3, -1), {"a" * 70_000: 1, "b": 2}, range(100_000), "y" * 9_000]
)
def test_a_value_of_another_type_is_kept_beside_its_items(value: Any) -> None:
    split = dump_items(value, 10_000)
    assert isinstance(split, PackedList)
    stored = written(split)
    whole = load(stored)
    assert type(whole) is type(value)
    assert np.array_equal(whole, value) if isinstance(value, np.ndarray) else whole == value
    for i, item in enumerate(value):
        assert np.array_equal(load_item(stored, i), item)
        if i > 3:
            break


def test_splitting_needs_a_length_that_is_true() -> None:
    class Lying(list[int]):
        def __len__(self) -> int:
            return 7

    with pytest.raises(TypeError, match="has no len"):
        dump_items(5)
    with pytest.raises(TypeError, match="says it has 7 items, but gave 1"):
        dump_items(Lying([1]))
    with pytest.raises(TypeError, match="says it has 7 items, but gave more"):
        dump_items(Lying(range(100)))


def test_a_column_is_a_view_that_loads_what_is_asked() -> None:
    items = ["a", np.arange(50_000), 3]
    packed = pack_column(items, lambda value, out_of_band: dump(value, out_of_band=out_of_band))
    view = load(written(packed))
    assert isinstance(view, ListView)
    assert len(view) == 3
    assert view[0] == "a"
    assert view[-1] == 3
    assert view[1][5] == 5
    assert view[::2] == ["a", 3]
    with pytest.raises(IndexError):
        view[3]


# --- what cannot be pickled or read -------------------------------------------------------------------


@dataclass
class Holder:
    """A value with parts."""

    parts: dict[str, Any]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (threading.Lock(), ["is a _thread.lock", "make it inside the task"]),
        ({"m": [1, threading.Lock()]}, ["is a dict", "at ['m'][1]", "_thread.lock"]),
        (
            Holder({"k": (i for i in ())}),
            ["test_values.Holder", "at .parts['k']", "generator", "make a list"],
        ),
    ],
)
def test_the_error_names_type_place_and_remedy(value: object, words: list[str]) -> None:
    with pytest.raises(ResultSerializationError) as caught:
        dump_inline_or_packed(value, what="the result of 'load'")
    for word in ["the result of 'load'", "cannot be pickled", *words]:
        assert word in str(caught.value)


def test_the_error_names_the_item_of_a_list() -> None:
    with pytest.raises(ResultSerializationError, match=r"item 1 of the result is a _thread\.lock"):
        dump_items([1, threading.Lock()])


def test_nesting_that_is_too_deep_is_said_to_be() -> None:
    value: list[Any] = []
    for _ in range(100_000):
        value = [value]
    with pytest.raises(ResultSerializationError, match="nested too deeply"):
        dump_inline_or_packed(value)
    while value:  # taken apart by hand: freeing it is recursive too
        value = value.pop()


def test_a_lazy_value_inside_is_refused() -> None:
    @task
    def later() -> int:
        return 1

    class Own:
        def __init__(self, held: object) -> None:
            self.held = held

        def __reduce__(self) -> Any:
            return Own, (self.held,)

    deep: list[Any] = [later()]
    for _ in range(30):
        deep = [deep]
    for value, where in (
        ([later()], r"at \[0\], the lazy result of 'later'"),
        ({"k": later()}, r"at \['k'\], the lazy result of 'later'"),
        ({"k": Own(later())}, r"in the \S*Own at \['k'\], a lazy result"),
        (deep, r"in the list at \[0\](\[0\])+, a lazy result"),
        ({later(): 1}, "somewhere, a lazy result"),
    ):
        with pytest.raises(ResultSerializationError, match=where) as raised:
            dump_inline_or_packed(value)
        assert "return a lazy result by itself" in str(raised.value)
        assert "call of a task that takes them as its arguments" in str(raised.value)
        assert "__reduce__" not in str(raised.value), "the remedy for things that cannot be pickled"


def test_payloads_that_are_cut_short_are_refused() -> None:
    whole = written(dump_inline_or_packed([np.arange(50_000), np.arange(10_000)]))
    listed = written(dump_items([b"x" * 50_000, 1, b"y" * 50_000]))
    for stored in (whole, listed):
        for length in (1, 10, 16, 40, len(stored) - 1):
            with pytest.raises(SerializationError, match=r"cut short|no payload"):
                load(stored[:length])
    with pytest.raises(SerializationError, match="cut short"):
        load_item(listed[:-100], 2)


@pytest.mark.parametrize(
    "stored", [b"", b"\x00" * 50, b"hello, this is some text", struct.pack("<4sIQ", b"CDP1", 2**31, 5)]
)
def test_bytes_that_are_no_payload_are_refused(stored: bytes) -> None:
    with pytest.raises(SerializationError):
        load(stored)


def test_a_plain_value_has_no_items() -> None:
    with pytest.raises(SerializationError, match="no packed list"):
        load_item(written(dump_inline_or_packed(np.arange(100_000))), 0)


def test_plain_pickles_of_other_makers_are_read() -> None:
    assert load(cloudpickle.dumps({"a": 1}, protocol=5)) == {"a": 1}
    assert load(memoryview(pickle.dumps([1, 2], 5))) == [1, 2]
