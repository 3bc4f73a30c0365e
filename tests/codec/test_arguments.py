"""Arguments: lazy values become inputs, everything else arrives as it was."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.codec.arguments import SHARED_INLINE_MAX, ArgumentEncoder, load_arguments
from cascade_dist.codec.opcodes import simple_arguments, simple_list
from cascade_dist.codec.values import Packed, load
from cascade_dist.errors import ArgumentSerializationError, TaskLoadError
from cascade_dist.graph.build import Compilation
from cascade_dist.graph.model import EdgeKind, Node, NodeKind
from cascade_dist.language.lazy import LazyResult, unmapped
from cascade_dist.language.task import Task, task


@task
def source(n: int) -> str:
    """Stands for a value that is made elsewhere: in these tests ``made n``."""
    return f"made {n}"


@task
def consume(*args: Any, **kwargs: Any) -> None:
    """Takes anything."""


@task
def child(x: Any, y: Any = None, z: Any = None) -> None:
    """A map's."""


def nodes_of(target: Any) -> list[Node]:
    return list(Compilation(target).nodes())


def made(lazy: object) -> str:
    """The value that a lazy result of `source` stands for."""
    assert isinstance(lazy, LazyResult)
    return f"made {lazy.args[0]}"


def stored(payload: bytes | Packed) -> bytes:
    return payload if isinstance(payload, bytes) else payload.to_bytes()


def arrived(node: Node, encoder: ArgumentEncoder | None = None, index: int = -1) -> tuple[Any, Any]:
    """A node's arguments as its worker gets them."""
    encoder = encoder or ArgumentEncoder()
    payload = stored(encoder.encode(node))
    inputs: list[object] = [made(lazy) for lazy in node.inputs]
    inputs += [load(packed.to_bytes()) for packed in encoder.blob_inputs(node)]
    return load_arguments(payload, inputs, index)


@dataclass
class Point:
    """An argument with lazy values in its attributes."""

    x: Any
    y: Any = 0


class Pair(NamedTuple):
    """An argument with lazy values in its fields."""

    left: Any
    right: Any


# --- round trips ------------------------------------------------------------------------------------

Filled = Callable[[Callable[[int], Any]], Any]
"""A value with holes: given what makes a hole's content from its number, the value."""


def constant(value: Any) -> Filled:
    return lambda hole: value


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=300),
    st.binary(max_size=300),
).map(constant)
holes = st.integers(0, 5).map(lambda n: lambda hole: hole(n))


def filled(shape: Callable[..., Any], parts: Sequence[Filled]) -> Filled:
    return lambda hole: shape(*(part(hole) for part in parts))


args_with_holes = st.recursive(
    plain | holes,
    lambda inner: st.one_of(
        st.lists(inner, max_size=5).map(lambda parts: lambda hole: [part(hole) for part in parts]),
        st.lists(inner, max_size=4).map(lambda parts: lambda hole: tuple(part(hole) for part in parts)),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(
            lambda parts: lambda hole: {name: part(hole) for name, part in parts.items()}
        ),
        st.tuples(inner, inner).map(lambda parts: filled(Pair, parts)),
        st.tuples(inner, inner).map(lambda parts: filled(Point, parts)),
    ),
    max_leaves=12,
)


@given(
    args=st.lists(args_with_holes, max_size=6),
    kwargs=st.dictionaries(st.from_regex(r"[a-zäß]{1,5}", fullmatch=True), args_with_holes, max_size=3),
    inline_max=st.sampled_from([50, 65_536]),
)
def test_arguments_arrive_with_values_for_lazies(
    args: list[Filled], kwargs: dict[str, Filled], inline_max: int
) -> None:
    lazies = {n: source(n) for n in range(6)}
    target = consume(
        *(arg(lazies.__getitem__) for arg in args),
        **{name: arg(lazies.__getitem__) for name, arg in kwargs.items()},
    )
    node = nodes_of(target)[-1]
    encoder = ArgumentEncoder(inline_max)
    payload = encoder.encode(node)
    assert not isinstance(payload, bytes) or len(payload) <= inline_max
    got_args, got_kwargs = arrived(node, encoder)
    assert got_args == tuple(arg("made {}".format) for arg in args)
    assert got_kwargs == {name: arg("made {}".format) for name, arg in kwargs.items()}


small = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=260) | st.binary(max_size=260)
)


@given(
    args=st.lists(small | st.lists(small, max_size=3), max_size=6),
    kwargs=st.dictionaries(st.text(min_size=1, max_size=260), small, max_size=3),
    ordinal=st.integers(0, 70_000),
)
def test_hand_made_pickles_are_what_a_pickler_makes(
    args: list[Any], kwargs: dict[str, Any], ordinal: int
) -> None:
    lazy = object()
    made = simple_arguments((*args, lazy, [lazy, 5]), {**kwargs, "lazy": lazy}, {id(lazy): ordinal})
    if made is None:
        listed = [value for arg in args if type(arg) is list for value in arg]
        texts = [
            value for value in [*args, *listed, *kwargs.values(), *kwargs] if type(value) in (str, bytes)
        ]
        assert any(len(text.encode() if type(text) is str else text) > 255 for text in texts)
        return

    class Loads(pickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            assert pid == ordinal
            return lazy

    import io

    got_args, got_kwargs = Loads(io.BytesIO(made)).load()
    assert repr(got_args) == repr((*args, lazy, [lazy, 5]))
    assert repr(got_kwargs) == repr({**kwargs, "lazy": lazy})


def test_a_list_of_lazies_takes_the_short_way() -> None:
    lazies = [object() for _ in range(300)]
    ordinals = {id(lazy): n for n, lazy in enumerate(lazies)}
    made = simple_list([*lazies, 1, "a"], ordinals)
    assert made is not None
    assert load(made, [str(n) for n in range(300)]) == [*map(str, range(300)), 1, "a"]
    assert simple_list([*lazies, {}], ordinals) is None


def test_no_arguments_are_no_bytes() -> None:
    (node,) = nodes_of(consume())
    assert ArgumentEncoder().encode(node) == b""
    assert load_arguments(b"") == ((), {})


def test_one_object_in_two_arguments_stays_one() -> None:
    shared = [1, 2]
    for extra in ((), (source(1),)):
        args, _ = arrived(nodes_of(consume(shared, shared, *extra))[-1])
        assert args[0] is args[1]


def test_a_gather_is_its_container() -> None:
    for value in (
        [source(1), "x", {"k": source(2)}],
        {"a": source(1), "b": 2},
        [source(3)] * 2,
    ):
        node = nodes_of(value)[-1]
        assert node.spec.kind is NodeKind.GATHER
        got = load(stored(ArgumentEncoder().encode(node)), [made(lazy) for lazy in node.inputs])
        expected = {
            list: ["made 1", "x", {"k": "made 2"}] if len(value) == 3 else ["made 3", "made 3"],
            dict: {"a": "made 1", "b": 2},
        }[type(value)]
        assert got == expected


def test_large_arguments_are_packed_and_not_copied() -> None:
    array = np.arange(100_000)
    node = nodes_of(consume(array, source(1), x="small"))[-1]
    payload = ArgumentEncoder().encode(node)
    assert isinstance(payload, Packed)
    assert any(np.frombuffer(part, np.uint8).ctypes.data == array.ctypes.data for part in payload._parts)
    args, kwargs = arrived(node)
    assert (args[0] == array).all()
    assert args[1:] == ("made 1",)
    assert kwargs == {"x": "small"}


# --- maps -------------------------------------------------------------------------------------------


def test_a_large_value_for_all_children_is_encoded_once() -> None:
    model = np.arange(10_000)
    nodes = nodes_of(child.map(x=[1, 2, source(7)], y=unmapped(model), z=unmapped("small")))
    children = [node for node in nodes if node.spec.name == "child"]
    encoder = ArgumentEncoder()
    assert {len(stored(encoder.encode(node))) < 100 for node in children} == {True}
    blobs = [encoder.blob_inputs(node) for node in children]
    assert all(len(found) == 1 and found[0] is blobs[0][0] for found in blobs)
    for node, x in zip(children, (1, 2, "made 7"), strict=True):
        args, kwargs = arrived(node, encoder)
        assert args == ()
        assert kwargs["x"] == x
        assert (kwargs["y"] == model).all()
        assert kwargs["z"] == "small"


def test_a_large_shared_value_with_a_lazy_in_it_goes_with_each_child() -> None:
    config = {"pad": "p" * 5_000, "late": source(3)}
    node = nodes_of(child.map(x=[1], y=unmapped(config)))[1]
    encoder = ArgumentEncoder()
    assert encoder.blob_inputs(node) == ()
    assert arrived(node, encoder)[1]["y"] == {"pad": "p" * 5_000, "late": "made 3"}


@pytest.mark.parametrize("length", [3, 3_000])
def test_a_child_of_a_lazy_map_takes_its_item_of_a_literal_list(length: int) -> None:
    column = [f"item {i}" for i in range(length)]
    nodes = nodes_of(child.map(x=source(1), y=column, z=unmapped({"k": 1})))
    node = nodes[-1]
    assert node.spec.kind is NodeKind.MAP
    assert node.columns == {"y"}
    encoder = ArgumentEncoder()
    payload = stored(encoder.encode(node))
    blobs = encoder.blob_inputs(node)
    assert len(blobs) == (len(pickle.dumps(column)) > SHARED_INLINE_MAX)
    for index in (0, 1, length - 1):
        inputs = ["an item", *(load(blob.to_bytes()) for blob in blobs)]
        args, kwargs = load_arguments(payload, inputs, index)
        assert args == ()
        assert kwargs == {"x": "an item", "y": column[index], "z": {"k": 1}}


def test_a_column_with_lazies_in_it_stays_a_list() -> None:
    column = ["c" * 2_000, source(5), 3]
    node = nodes_of(child.map(x=source(1), y=column))[-1]
    encoder = ArgumentEncoder()
    payload = stored(encoder.encode(node))
    assert encoder.blob_inputs(node) == ()
    inputs = ["an item" if kind is EdgeKind.ITEMS else "made 5" for kind in node.kinds]
    assert load_arguments(payload, inputs, 1)[1]["y"] == "made 5"
    assert load_arguments(payload, inputs, 2)[1]["y"] == 3


# --- what travels by value --------------------------------------------------------------------------


def test_what_main_defines_travels_by_value() -> None:
    """Plain pickle would take these by a name that means nothing in another process."""
    script = """
import sys, pickle
from cascade_dist.codec.arguments import ArgumentEncoder
from cascade_dist.graph.build import Compilation
from cascade_dist.language.task import task
class Mine:
    def __init__(self, n): self.n = n
def helper(x): return x + 1
@task
def f(*args): pass
lazy = f()
for node in Compilation(f(Mine(4), helper, f, [lazy])).nodes():
    payload = ArgumentEncoder().encode(node)
sys.stdout.buffer.write(payload)
"""
    payload = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True).stdout
    (mine, helper, f, lazies), kwargs = load_arguments(payload, ["value"])
    assert mine.n == 4
    assert helper(1) == 2
    assert isinstance(f, Task)
    assert f.name == "f"
    assert lazies == ["value"]
    assert kwargs == {}


def test_a_task_that_can_be_imported_travels_by_name() -> None:
    payload = stored(ArgumentEncoder().encode(nodes_of(consume([source]))[0]))
    assert len(payload) < 120
    assert load_arguments(payload)[0][0][0] is source


# --- what cannot travel -----------------------------------------------------------------------------


class Hidden:
    """A place in which the graph does not look for lazy values."""

    def __init__(self, value: Any) -> None:
        self.value = value


def refused(target: Any) -> str:
    encoder = ArgumentEncoder()
    nodes = nodes_of(target)
    with pytest.raises(ArgumentSerializationError) as caught:
        list(map(encoder.encode, nodes))
    return str(caught.value)


@pytest.mark.parametrize("with_lazy", [False, True])
def test_the_error_names_task_argument_place_type_and_remedy(with_lazy: bool) -> None:
    first: tuple[Any, ...] = (source(1),) if with_lazy else (1,)
    text = refused(consume(*first, {"deep": [Point(threading.Lock())]}))
    for word in ("'consume'", "argument 1", "['deep'][0].x", "_thread.lock", "make it inside the task"):
        assert word in text
    text = refused(consume(*first, name=(n for n in ())))
    for word in ("'consume'", "argument 'name'", "is a generator", "make a list of it"):
        assert word in text


def test_the_error_names_the_child_of_a_map() -> None:
    assert "'child[1]': argument 'x' is a _thread.lock" in refused(child.map(x=[1, threading.Lock()]))
    assert "'child[0]': argument 'y'" in refused(
        child.map(x=[1], y=unmapped(["p" * 2_000, threading.Lock()]))
    )
    assert "argument 'y', at [1] is a _thread.lock" in refused(
        child.map(x=source(1), y=[1, threading.Lock()])
    )


def test_an_encoder_goes_on_after_an_error() -> None:
    encoder = ArgumentEncoder()
    bad, good = nodes_of(consume([threading.Lock()]))[0], nodes_of(consume([1], {"a": 2}))[0]
    for _ in range(2):
        with pytest.raises(ArgumentSerializationError):
            encoder.encode(bad)
        assert arrived(good, encoder) == (([1], {"a": 2}), {})


@pytest.mark.parametrize("with_lazy", [False, True])
def test_a_lazy_value_where_the_graph_does_not_look_is_refused(with_lazy: bool) -> None:
    first: tuple[Any, ...] = (source(1),) if with_lazy else (1,)
    text = refused(consume(*first, [Hidden(source(2))]))
    for word in (
        "'consume'",
        "argument 1, at [0].value",
        "lazy result of 'source'",
        "pass it as an argument",
    ):
        assert word in text


def test_a_target_that_cannot_be_pickled() -> None:
    assert "the target, at ['b'] is a _thread.lock" in refused({"a": source(1), "b": threading.Lock()})


def test_a_module_that_the_worker_lacks_is_named() -> None:
    payload = pickle.dumps(((1,), {}), 5).replace(b"K\x01\x85", b"cno_such_module\nThing\n\x85")
    with pytest.raises(TaskLoadError, match="no_such_module"):
        load_arguments(payload[:2] + payload[11:])
