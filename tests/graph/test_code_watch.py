"""Whether code is what it was: told by looking at it, against its hash."""

from __future__ import annotations

import json
import os
import types
from typing import Any

import pytest

import cascade_dist as cs
from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.code_watch import CodeWatch, watch

LIMIT = 3
PAIR = (1, "b")
TABLE = {"a": 1}
helpers = types.ModuleType("helpers")
helpers.rate = 2  # type: ignore[attr-defined]


def inner(n: int) -> int:
    return n * LIMIT


def outer(n: int, by: int = 2) -> int:
    return inner(n) + by


@cs.task
def loop(n: int) -> Any:
    return loop(outer(n) + len(json.dumps(n)) + helpers.rate + PAIR[0])


@cs.task
def imports(n: int) -> Any:
    from os import path

    return imports(path.join("a", str(n)))


@cs.task
def reads_a_table(n: int) -> Any:
    return reads_a_table(TABLE["a"])


def closes_over(value: Any) -> Any:
    @cs.task
    def within(n: int) -> Any:
        return within(value)

    return within


@cs.task
def by_default(n: Any = (1, [2])) -> Any:
    return by_default()


@cs.task
def by_plain_default(n: Any = (1, 2), *, by: int = 3) -> Any:
    return by_plain_default()


@cs.task
def of_a_class(n: int) -> Any:
    return of_a_class(Helper().rate)


class Helper:
    rate = 1


def watched(task: Any) -> CodeWatch:
    made = watch(task)
    assert made is not None
    assert made.holds()
    return made


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LIMIT", 4),
        ("PAIR", (1, "c")),
        ("inner", lambda n: n),
        ("outer", lambda n: n),
        ("len", lambda text: 1),
        ("json", os),
        ("loop", cs.task(lambda n: n)),
    ],
    ids=["a value", "a tuple", "a helper's helper", "a helper", "what was a builtin", "a module", "the task"],
)
def test_what_changes_the_hash_is_seen(monkeypatch: pytest.MonkeyPatch, name: str, value: Any) -> None:
    task, made = loop, watched(loop)
    before = CodeHasher().hash(task.func).digest
    monkeypatch.setitem(globals(), name, value)
    assert CodeHasher().hash(task.func).digest != before
    assert not made.holds()
    monkeypatch.undo()
    assert made.holds()


def test_a_value_in_a_module_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(loop)
    monkeypatch.setattr(helpers, "rate", 5)
    assert not made.holds()


def test_code_and_defaults_that_are_exchanged_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(loop)
    monkeypatch.setattr(inner, "__code__", (lambda n: n).__code__)
    assert not made.holds()
    monkeypatch.undo()
    assert made.holds()
    monkeypatch.setattr(outer, "__defaults__", (5,))
    assert not made.holds()


def test_options_of_a_task_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    made = watched(loop)
    monkeypatch.setattr(loop, "timeout", 5.0)
    assert not made.holds()
    monkeypatch.undo()
    monkeypatch.setitem(loop.resources, "gpu", 1)
    assert not made.holds()


def test_what_may_change_unseen_is_not_watched() -> None:
    assert watch(reads_a_table) is None
    assert watch(closes_over(1)) is None
    assert watch(by_default) is None
    assert watch(by_plain_default) is None, "defaults of keywords are in a dict"
    assert watch(of_a_class) is None


def test_imports_of_what_is_installed_are_watched() -> None:
    watched(imports)


class Mine(Exception):
    """Of the user."""


def test_exceptions_of_the_user_are_not_watched() -> None:
    assert watch(loop, cs.RetryPolicy(on=(ValueError,))) is not None
    assert watch(loop, cs.RetryPolicy(on=(Mine,))) is None
