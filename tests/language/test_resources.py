"""Resources as people write them."""

from __future__ import annotations

import functools
import pickle
import types
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cloudpickle
import pytest

import cascade_dist as cs
from cascade_dist.language import resources
from cascade_dist.language.resources import Filler, Inject, filling, find, injections, resolve, within


@cs.resource
def importable() -> Iterator[str]:
    """For tests that pickle it by name."""
    yield "here"


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of one test are not those of another."""
    monkeypatch.setattr(resources, "_registry", {})


def one() -> Iterator[int]:
    yield 1


async def later() -> AsyncIterator[int]:
    yield 1


def test_bare_and_with_options() -> None:
    @cs.resource
    def db() -> Iterator[int]:
        """A database."""
        yield 1

    assert (db.name, db.scope, db.asynchronous, db.__doc__) == ("db", "run", False, "A database.")
    assert next(db.func()) == 1
    made = cs.resource(name="other", scope="worker")(later)
    assert (made.name, made.scope, made.asynchronous) == ("other", "worker", True)
    assert repr(made) == "<Resource 'other' (worker)>"
    partial = cs.resource(functools.partial(one), name="p")
    assert (partial.name, partial.asynchronous) == ("p", False)


@pytest.mark.parametrize(
    ("func", "told"),
    [
        (lambda: 1, "a plain function"),
        (7, "a int"),
        (contextmanager(one), "put @cs.resource on the bare generator function"),
        (importable, "is a resource already"),
    ],
)
def test_s64_what_is_no_generator_function_is_refused(func: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        cs.resource(func, name="db")


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="scope of resource 'one' is 'session': it is one of 'task', 'run'"):
        cs.resource(scope="session")(one)
    with pytest.raises(TypeError, match="name is ''"):
        cs.resource(one, name="")

    def needs(x: int) -> Iterator[int]:
        yield x

    with pytest.raises(TypeError, match="'needs' has the parameter 'x', which nobody gives it"):
        cs.resource(needs)


def test_a_resource_is_no_function_and_no_task() -> None:
    with pytest.raises(TypeError, match=r"cs.inject\('importable'\)"):
        importable()
    with pytest.raises(TypeError, match=r"is a resource, not a task"):
        cs.task(importable)


def test_inject_takes_a_name_or_a_resource() -> None:
    assert cs.inject("db").name == "db"
    assert cs.inject(importable).resource is importable
    for wrong in (one, 3, "", None):
        with pytest.raises(TypeError, match=r"cs.inject got"):
            cs.inject(wrong)


@pytest.mark.parametrize(
    "act",
    [bool, len, iter, lambda m: m[0], lambda m: m(), lambda m: m.connect, lambda m: m.__enter__()],
)
def test_a_marker_used_as_a_value_says_what_it_is(act: Callable[[Any], Any]) -> None:
    with pytest.raises((TypeError, AttributeError), match=r"inject\('db'\): it is a marker"):
        act(cs.inject("db"))
    with pytest.raises(AttributeError):
        cs.inject("db").__deepcopy__  # noqa: B018


# --- names -------------------------------------------------------------------------------------------


def test_the_last_definition_of_a_name_counts() -> None:
    cs.resource(one, name="db")
    second = cs.resource(one, name="db")
    assert resolve(Inject("db"), "task 'f'") is second


def test_a_definition_of_another_module_warns() -> None:
    cs.resource(one, name="db")
    other = types.FunctionType(one.__code__, {"__name__": "elsewhere"})
    other.__module__ = "elsewhere"
    with pytest.warns(UserWarning, match="'db' of .*test_resources is replaced by that of elsewhere"):
        cs.resource(other, name="db")


def test_s66_an_unknown_name_is_told_with_the_known_ones() -> None:
    cs.resource(one, name="b")
    cs.resource(one, name="a")
    with pytest.raises(cs.ResourceNotFoundError, match=r"task 'f' .* 'c' injected, .*\(known: 'a', 'b'\)"):
        resolve(Inject("c"), "task 'f'")


def test_s65_overrides_hold_inside_their_block() -> None:
    original = cs.resource(one, name="db", scope="worker")
    with cs.override_resource("db", 5) as outer:
        assert find(Inject("db")) is outer
        assert (outer.scope, next(outer.func())) == ("worker", 5)
        assert find(Inject("db", original)) is outer, "whoever injects the object is given the mock too"
        with cs.override_resource(original, later) as inner:
            assert (inner.func, inner.scope, inner.asynchronous) == (later, "worker", True)
            assert find(Inject("db")) is inner
            redefined = cs.resource(one, name="db")
        assert find(Inject("db")) is outer
    assert find(Inject("db")) is redefined, "what was defined meanwhile is not lost"
    with cs.override_resource("new", 1) as new:
        assert (find(Inject("new")), new.scope) == (new, "run")
    assert find(Inject("new")) is None
    with cs.override_resource("db", cs.Resource(one, scope="task")) as given:
        assert (given.name, given.scope) == ("db", "task")


def test_overrides_that_end_out_of_order() -> None:
    first, second = cs.override_resource("x", 1), cs.override_resource("x", 2)
    first.__enter__()
    kept = second.__enter__()
    first.__exit__(None, None, None)
    assert find(Inject("x")) is kept
    second.__exit__(None, None, None)
    assert find(Inject("x")) is None


def test_within_an_attempt_its_own_definitions_come_first() -> None:
    mine, registered = cs.Resource(one, name="db"), cs.resource(one, name="db")
    with within({"db": mine}):
        assert find(Inject("db")) is mine
        assert "db" in resources.known_names()
    assert find(Inject("db")) is registered


# --- travelling --------------------------------------------------------------------------------------


def test_resources_pickle_by_name_or_whole() -> None:
    assert pickle.loads(pickle.dumps(importable)) is importable
    whole = cloudpickle.loads(cloudpickle.dumps(cs.Resource(one, name="x", scope="task")))
    assert (whole.name, whole.scope, next(whole.func())) == ("x", "task", 1)


def test_a_function_takes_the_definitions_along_that_it_injects() -> None:
    cs.resource(lambda: (yield 7), name="inner")

    def outer(inner: int = cs.inject("inner")) -> Iterator[int]:
        yield inner + 1

    cs.resource(outer)
    data = cloudpickle.dumps(lambda x=cs.inject("outer"): x)
    resources._registry.clear()
    [(_, _, marker)] = injections(pickle.loads(data))
    found = find(marker)
    assert found is not None
    assert found.name == "outer"
    [inner] = found.requires
    definition = find(inner)
    assert definition is not None
    assert next(definition.func()) == 7
    mine = cs.resource(one, name="outer")
    assert find(marker) is mine, "what this process knows by the name comes first"


def test_slots_become_values_where_they_are_loaded() -> None:
    data = pickle.dumps([1, {"k": resources.Slot("db")}])
    with filling({"db": "value"}):
        assert pickle.loads(data) == [1, {"k": "value"}]
    assert repr(pickle.loads(data)[1]["k"]) == "inject('db')"


def test_injected_parameters_of_every_kind() -> None:
    a, b = cs.inject("a"), cs.inject("b")

    def plain(x: int, a: Any = a, *, b: Any = b) -> Any:
        return x, a, b

    def ordered(x: int, a: Any = a, y: int = 2, b: Any = b, /) -> Any:
        return x, a, y, b

    @functools.wraps(plain)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    values = {"a": "A", "b": "B"}

    def call(func: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = Filler(func).fill(args, kwargs, values)
        return func(*args, **kwargs)

    assert call(plain, 1) == call(wrapped, 1) == (1, "A", "B")
    assert call(plain, 1, 5) == call(wrapped, 1, a=5) == (1, 5, "B")
    assert call(ordered, 1) == (1, "A", 2, "B")
    assert call(ordered, 1, 5) == (1, 5, 2, "B")
    assert call(ordered, 1, 5, 6, 7) == (1, 5, 6, 7)
    assert call(plain, 1, a, b=b) == (1, "A", "B"), "defaults that were laid out"
    assert call(functools.partial(plain, b=5), 1) == (1, "A", 5)
    assert call(functools.partial(lambda x, c: (x, c), c=a), 1) == (1, "A")
    assert injections(len) == injections(int) == ()
