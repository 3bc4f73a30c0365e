"""Submits that repeat an earlier one are the same messages as compiled ones."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

import cascade_dist as cs
from cascade_dist.client import repeats
from cascade_dist.client.link import Link
from cascade_dist.codec.functions import FunctionCache
from cascade_dist.graph import identity
from cascade_dist.graph.build import Compilation
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.wire.graphs import Part, encode_graph
from tests.client.fake import put_together

OPTIONS = ("name", "cancel", True, False, 30.0)


@pytest.fixture(autouse=True)
def room_for_specs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Specs are remembered up to a bound, then forgotten; other tests leave some."""
    monkeypatch.setattr(identity, "_recent", {})


@cs.task
def add(a: Any, b: Any = 1) -> Any:
    return a + b


@cs.task(pure=True, timeout=5.0)
def careful(a: Any) -> Any:
    return a


@cs.task(retry=3)
def retried(a: Any) -> Any:
    return a


factor = 2


@cs.task
def scale(a: Any) -> Any:
    return a * factor


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repeats, "_calls", {})
    monkeypatch.setattr(repeats, "_specs", {})


def compiled(target: Any, link: Any, run_id: str = "r-compiled") -> tuple[pb.Submit, FunctionCache]:
    functions = FunctionCache()
    parts = encode_graph(
        cast("Any", Compilation(target)),
        run_id=run_id,
        options=pb.RunOptions(name="name", logs=True),
        known=link.known,
        functions=functions,
    )
    (part,) = parts
    assert isinstance(part, Part)
    return part.message, functions


def link_of() -> Link:
    return cast("Link", SimpleNamespace(known=set(), inline_max=1 << 16))


def learn(target: Any, link: Link) -> None:
    """As two submits do: the first carries the body of the function, the second is remembered."""
    for _ in range(2):
        repeats.keep(target, OPTIONS, *compiled(target, link))


@pytest.mark.parametrize(
    "make",
    [
        lambda: add(1),
        lambda: add(-7, "text"),
        lambda: add(None, b"bytes"),
        lambda: add(2.5, True),
        lambda: careful(3),
        lambda: scale(10**30),
    ],
)
@pytest.mark.parametrize("run_id", ["r", "r" * 128])
def test_a_repeated_call_is_the_message_that_compiling_gives(make: Any, run_id: str) -> None:
    link = link_of()
    target = make()
    learn(type(target)(target.task, (0,)), link)
    found = repeats.repeat(target, OPTIONS, link)
    assert found is not None
    told = put_together(pb.OpenRequest.FromString(repeats.frame(run_id, found)).submit)
    whole, functions = compiled(target, link, run_id)
    assert told == whole
    compilation = Compilation(target)
    list(compilation.nodes())
    assert found.identity == (
        compilation.template_id,
        compilation.structural_id,
        compilation.params_digest,
    )
    cid = told.chunk.functions[0].cid
    assert found.functions.body(cid) == functions.body(cid)


def test_what_is_no_plain_call_is_compiled() -> None:
    link = link_of()
    learn(add(0), link)
    learn(retried(0), link)
    assert repeats.repeat(add(1), OPTIONS, link) is not None
    for target in (
        add(1, b=2),
        add([1]),
        add(1j),
        add("x" * 2000),
        add(add(1)),
        add(1).after(add(2)),
        add(1).with_timeout(3.0),
        add.map(a=[1]),
        [add(1)],
        careful(1),
        retried(1),
        "nothing",
    ):
        assert repeats.repeat(target, OPTIONS, link) is None, target
    assert repeats.repeat(add(1), ("another name", *OPTIONS[1:]), link) is None


def test_other_connections_get_the_body_first() -> None:
    link = link_of()
    learn(add(0), link)
    assert repeats.repeat(add(1), OPTIONS, link_of()) is None
    assert repeats.repeat(add(1), OPTIONS, None) is None


table = [1]


@cs.task
def looks_up(a: Any) -> Any:
    return table[a]


def test_changed_code_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    link = link_of()
    for task, name, value in ((scale, "factor", 3), (looks_up, "table", [2])):
        learn(task(0), link)
        assert repeats.repeat(task(1), OPTIONS, link) is not None
        with monkeypatch.context() as patch:
            patch.setitem(globals(), name, value)
            assert repeats.repeat(task(1), OPTIONS, link) is None
        assert repeats.repeat(task(1), OPTIONS, link) is not None


def test_what_changes_in_place_is_noticed() -> None:
    link = link_of()
    learn(looks_up(0), link)
    table.append(3)
    assert repeats.repeat(looks_up(1), OPTIONS, link) is None
    table.pop()
    assert repeats.repeat(looks_up(1), OPTIONS, link) is not None


def test_the_first_submit_of_a_function_and_unlike_ones_are_not_learned() -> None:
    link = link_of()
    repeats.keep(add(1), OPTIONS, *compiled(add(1), link))  # with its body
    for target in (add([1]), add(1, b=2), add(add(1)), add(1).with_timeout(3.0), [add(1)]):
        repeats.keep(target, OPTIONS, *compiled(target, link))
    assert repeats.repeat(add(1), OPTIONS, link) is None


def test_memory_is_bounded() -> None:
    link = link_of()
    for number in range(200):
        target = add(1)
        message, functions = compiled(target, link)
        repeats.keep(target, (number,), message, functions)
    assert len(repeats._calls) <= repeats._MAX
    assert len(repeats._specs) <= repeats._MAX
