"""Jumps: loops that go from one node of a graph to another, each on four clusters (see `loops`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import cascade_dist as cs

from .conftest import Journal, note

pytestmark = pytest.mark.integration

TIMEOUT = 60


@cs.task
def add(a: int, b: int) -> int:
    return a + b


@cs.resource(name="jumps_session", scope="task")
def jumps_session() -> Iterator[int]:
    yield 41


@cs.task
def counter(n: int, path: str = "") -> Any:
    if path:
        note(path, n)
    return cs.Jump("exit", n) if n <= 0 else cs.Jump("continue", n - 1)


@cs.task
def stepper(n: int, path: str) -> Any:
    note(path, n)
    return cs.Jump("exit", "Done") if n == 0 else cs.Jump("continue", {"n": n - 1})


@cs.task
def noted(path: str, word: str, x: Any) -> Any:
    note(path, word)
    return x


@cs.task
def two(a: int, b: int, path: str) -> Any:
    note(path, f"{a},{b}")
    if a == 0:
        return cs.Jump("end", b)
    return cs.Jump("again", {"a": a - 1})


def bound(source: Any, **routes: Any) -> Any:
    return cs.bind(source, cs.select_jump({**routes}))


def test_s40_a_counter_jumps_to_itself_until_it_exits(loops: cs.Cluster) -> None:
    start = counter(5)
    bound(start, **{"continue": start, "exit": None})
    assert loops.run(start, timeout=TIMEOUT) == 0


def test_s41_jump_data_replaces_the_param(loops: cs.Cluster, journal: Journal) -> None:
    start = stepper(cs.Param("n"), journal.path)
    bound(start, **{"continue": start, "exit": None})
    assert loops.run(start, params={"n": 3}, timeout=TIMEOUT) == "Done"
    assert journal.lines() == ["3", "2", "1", "0"]


def test_s42_an_unknown_key_is_named_with_the_known_ones(loops: cs.Cluster) -> None:
    start = counter(5)
    bound(start, other=start, exit=None)
    with pytest.raises(cs.GraphError, match=r"'continue'.*'other', 'exit'"):
        loops.run(start, timeout=TIMEOUT)


def test_s42_a_selector_with_an_exit_alone_ends_with_the_data(loops: cs.Cluster) -> None:
    assert loops.run(bound(counter(0), exit=None), timeout=TIMEOUT) == 0


def test_upstreams_of_replaced_parameters_alone_are_not_run_again(
    loops: cs.Cluster, journal: Journal
) -> None:
    start = two(noted(journal.path, "A", 2), noted(journal.path, "B", 7), journal.path)
    bound(start, again=start, end=None)
    assert loops.run(start, timeout=TIMEOUT) == 7
    words = journal.lines()
    assert words.count("A") == 1
    assert words.count("B") == 3, "the other argument is made anew for every step"
    assert [word for word in words if "," in word] == ["2,7", "1,7", "0,7"]


@cs.task
def first(x: int) -> Any:
    return cs.Jump("b", x + 1)


@cs.task
def second(y: int, z: int = 10) -> Any:
    if y > 3:
        return cs.Jump("end", (y, z))
    return cs.Jump("a", None) if z > 100 else cs.Jump("b", {"y": y + 1, "z": z + 1})


def test_overrides_do_not_add_up(loops: cs.Cluster) -> None:
    start, other = first(0), second(add(100, 100), add(5, 5))
    selector = cs.select_jump({"a": start, "b": other, "end": None})
    cs.bind(start, selector)
    cs.bind(other, selector)
    # 0 → b(y=1), z is 10 → b(y=2, z=11) → b(y=3, z=12) → b(y=4, z=13) → the end
    assert loops.run(start, timeout=TIMEOUT) == (4, 13)


def test_what_only_jumps_reach_does_not_run_before(loops: cs.Cluster, journal: Journal) -> None:
    start = counter(1)
    other = noted(journal.path, "other", 1)
    bound(start, **{"continue": add(other, 41), "exit": None})
    assert loops.run(bound(counter(0), exit=None, other=other), timeout=TIMEOUT) == 0
    assert journal.lines() == []
    assert loops.run(start, timeout=TIMEOUT) == 41 + 0


def test_a_jump_to_a_name_that_there_is_not_is_an_error(loops: cs.Cluster) -> None:
    @cs.task
    def jumps() -> Any:
        return cs.Jump("on", {"nope": 1})

    with pytest.raises(cs.GraphError, match=r"'nope'.*'a', 'b'"):
        loops.run(bound(jumps(), on=add(1, 2)), timeout=TIMEOUT)


def test_a_jump_without_a_selector_is_an_error_with_the_remedy(loops: cs.Cluster) -> None:
    with pytest.raises(cs.GraphError, match=r"bound to no selector.*cs\.bind"):
        loops.run(counter(1), timeout=TIMEOUT)


@cs.task
def uses_and_jumps(n: int, path: str, held: Any = cs.inject("jumps_session")) -> Any:
    note(path, n)
    return cs.Jump("exit", held) if n == 0 else cs.Jump("continue", n - 1)


def test_s41_with_an_injected_resource(loops: cs.Cluster, journal: Journal) -> None:
    start = uses_and_jumps(cs.Param("n"), journal.path)
    bound(start, **{"continue": start, "exit": None})
    assert loops.run(start, params={"n": 3}, timeout=TIMEOUT) == 41
    assert journal.lines() == ["3", "2", "1", "0"]
