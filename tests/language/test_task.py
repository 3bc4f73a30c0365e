"""Tasks: what can be one, which options there are, and how calls are bound."""

from __future__ import annotations

import asyncio
import functools
import inspect
import math
import pickle
import subprocess
import sys
import types
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

import cascade_dist as cs


@cs.task
def importable(x: int) -> int:
    """Doubles."""
    return 2 * x


def plain(a: int, b: int = 2) -> int:
    return a + b


class Scale:
    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, x: int) -> int:
        return self.factor * x

    def method(self, x: int) -> int:
        return self.factor + x


class AsyncScale:
    async def __call__(self, x: int) -> int:
        return x


# --- S1, S2 -----------------------------------------------------------------------------------------


def test_s1_calling_a_sync_task_makes_a_lazy_result_and_runs_nothing() -> None:
    ran = []

    @cs.task
    def record(x: int, y: int = 0) -> None:
        ran.append((x, y))

    lazy = record(1, y=2)
    assert isinstance(lazy, cs.LazyResult)
    assert lazy.task is record
    assert lazy.args == (1,)
    assert lazy.kwargs == {"y": 2}
    assert ran == []


def test_s1_calling_an_async_task_makes_a_lazy_result_and_runs_nothing() -> None:
    ran = []

    @cs.task
    async def record(x: int) -> None:
        ran.append(x)

    lazy = record(1)
    assert isinstance(lazy, cs.LazyResult)
    assert record.asynchronous
    assert lazy.args == (1,)
    assert lazy.kwargs == {}
    assert ran == []
    asyncio.run(record.func(3))
    assert ran == [3]


def test_s2_name_and_mode_are_options() -> None:
    @cs.task(name="crunch", mode="compute")
    def numbers() -> None: ...

    @cs.task
    def usual() -> None: ...

    assert (numbers.name, numbers.mode) == ("crunch", "compute")
    assert (usual.name, usual.mode) == ("usual", "blocking")


# --- what can be a task -----------------------------------------------------------------------------


def test_the_function_itself_is_there() -> None:
    assert importable.func(4) == 8
    assert importable.__name__ == "importable"
    assert importable.__doc__ == "Doubles."
    assert importable.__module__ == __name__
    assert inspect.signature(importable) == inspect.signature(importable.func)


@pytest.mark.parametrize(
    ("func", "name"),
    [
        (lambda x: x, "<lambda>"),
        (functools.partial(plain, b=3), "plain"),
        (functools.partial(functools.partial(plain), b=3), "plain"),
        (Scale(2), "Scale"),
        (Scale(2).method, "method"),
        (len, "len"),
        (math.sqrt, "sqrt"),
        (Scale, "Scale"),
    ],
)
def test_any_callable_can_be_a_task(func: Callable[..., Any], name: str) -> None:
    made: cs.Task[Any] = cs.task(func)
    assert made.name == name
    assert made.func is func
    assert made([4]).args == ([4],)


def test_options_can_be_given_with_the_callable() -> None:
    made: cs.Task[Any] = cs.task(lambda: 1, name="one", pure=True)
    assert made.name == "one"
    assert made.pure


@pytest.mark.parametrize(
    ("func", "asynchronous"),
    [
        (plain, False),
        (AsyncScale(), True),
        (functools.partial(AsyncScale()), True),
        (functools.partial(plain, 1), False),
        (AsyncScale, False),
    ],
)
def test_coroutine_functions_are_known(func: Callable[..., Any], asynchronous: bool) -> None:
    assert cs.task(func).asynchronous is asynchronous


def generator() -> Any:
    yield 1


async def async_generator() -> Any:
    yield 1


@pytest.mark.parametrize(
    ("func", "word"),
    [
        (5, "takes a function"),
        (generator, "return a list"),
        (async_generator, "return a list"),
        (functools.partial(generator), "return a list"),
        (importable, "is a task already"),
        (importable(1), "is a call, not a function"),
    ],
)
def test_what_is_no_task_is_refused(func: Any, word: str) -> None:
    with pytest.raises(TypeError, match=word):
        cs.task(func)


def test_a_task_in_a_class_binds_its_instance() -> None:
    class Model:
        @cs.task
        def predict(self, x: int) -> int:
            return x

    model = Model()
    assert model.predict(3).args == (model, 3)
    assert isinstance(Model.predict, cs.Task)


def test_static_and_class_methods_go_above() -> None:
    class Model:
        @staticmethod
        @cs.task
        def double(x: int) -> int:
            return 2 * x

        @classmethod
        @cs.task
        def make(cls, x: int) -> int:
            return x

    assert Model.double(3).args == (3,)
    assert Model().double(3).args == (3,)
    assert Model.make(3).args == (Model, 3)
    for kind in (staticmethod, classmethod):
        with pytest.raises(TypeError, match=f"put @{kind.__name__} above @cs.task"):
            cs.task(kind(plain))


# --- options ----------------------------------------------------------------------------------------


def test_an_unknown_option_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        TypeError, match=r"no option 'retries'.* name, pure, mode, resources, timeout, retry, durable"
    ):
        cs.task(retries=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="no option 'fork'"):
        cs.task(plain, fork=True)


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"name": ""}, TypeError, "name"),
        ({"name": 3}, TypeError, "name"),
        ({"pure": 1}, TypeError, "pure"),
        ({"durable": "yes"}, TypeError, "durable"),
        ({"mode": "fast"}, ValueError, "'blocking', 'compute'"),
        ({"timeout": 0}, ValueError, "timeout"),
        ({"timeout": -1}, ValueError, "timeout"),
        ({"timeout": float("nan")}, ValueError, "timeout"),
        ({"timeout": "5s"}, TypeError, "timeout"),
        ({"timeout": True}, TypeError, "timeout"),
        ({"retry": 0}, ValueError, "max_attempts"),
        ({"retry": True}, TypeError, "retry"),
        ({"retry": "often"}, TypeError, "retry"),
        ({"retry": cs.RetryPolicy(delay=-1)}, ValueError, "delay"),
        ({"resources": {"gpu": -1}}, ValueError, "gpu"),
        ({"resources": {"": 1}}, ValueError, "named"),
        ({"resources": {3: 1}}, ValueError, "named"),
        ({"resources": ["gpu"]}, TypeError, "give a dict"),
    ],
)
def test_a_bad_option_names_itself(options: dict[str, Any], error: type[Exception], word: str) -> None:
    with pytest.raises(error, match=word):
        cs.task(plain, **options)


def test_good_options_are_kept() -> None:
    made = cs.task(
        plain, name="n", pure=True, mode="compute", resources={"gpu": 0.5}, timeout=3, retry=2, durable=True
    )
    assert made.resources == {"gpu": 500_000}
    assert made.retry == cs.RetryPolicy(2)
    assert made.timeout == 3.0
    assert made.durable
    again = cs.Task(plain, **made.options())
    assert again.options() == made.options()


# --- binding ----------------------------------------------------------------------------------------


def only_positional(a: int, b: int = 1, /) -> None: ...
def only_keywords(*, a: int, b: int = 1) -> None: ...
def anything(*args: int, **kwargs: int) -> None: ...
def mixed(a: int, /, b: int, c: int = 3, *rest: int, d: int, e: int = 5, **more: int) -> None: ...


@functools.wraps(plain)
def wrapper(*args: int, **kwargs: int) -> int:
    return plain(1, *args, **kwargs)


FUNCTIONS = [
    plain,
    only_positional,
    only_keywords,
    anything,
    mixed,
    Scale(1),
    Scale(1).method,
    Scale,
    functools.partial(plain, 1),
    functools.partial(plain, b=1),
    lambda: None,
]


@given(
    func=st.sampled_from(FUNCTIONS),
    args=st.lists(st.integers(0, 9), max_size=4),
    kwargs=st.dictionaries(st.sampled_from("a b c d e x factor".split()), st.integers(0, 9), max_size=4),
)
def test_a_call_is_refused_exactly_when_the_signature_does(
    func: Callable[..., Any], args: list[int], kwargs: dict[str, int]
) -> None:
    made: cs.Task[Any] = cs.task(func)
    refusal = ""
    try:
        inspect.signature(func).bind(*args, **kwargs)
    except TypeError as error:
        refusal = str(error)
    if refusal:
        with pytest.raises(TypeError) as caught:
            made(*args, **kwargs)
        assert refusal in str(caught.value)
        assert made.name in str(caught.value)
    else:
        lazy = made(*args, **kwargs)
        assert list(lazy.args) == args
        assert lazy.kwargs == kwargs


def test_a_wrapper_is_called_as_it_says_itself() -> None:
    assert cs.task(wrapper)().args == ()


def test_a_parameter_may_be_named_self() -> None:
    def odd(self: int, func: int) -> None: ...

    assert cs.task(odd)(self=1, func=2).kwargs == {"self": 1, "func": 2}


def test_callables_without_a_signature_take_anything() -> None:
    assert cs.task(max)(1, 2, key=abs).args == (1, 2)


# --- travelling -------------------------------------------------------------------------------------


def test_an_importable_task_travels_by_name() -> None:
    module = types.ModuleType("a_module_of_tests")
    module.__dict__["cs"] = cs
    exec("@cs.task\ndef f(x): return x\nclass C:\n    @cs.task\n    def g(self): pass", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        assert pickle.loads(pickle.dumps(module.f)) is module.f
        assert cloudpickle.loads(cloudpickle.dumps(module.f)) is module.f
        assert pickle.loads(pickle.dumps(module.C.g)) is module.C.g
        cloudpickle.register_pickle_by_value(module)
        assert cloudpickle.loads(cloudpickle.dumps(module.f)) is not module.f
    finally:
        cloudpickle.unregister_pickle_by_value(module)
        del sys.modules[module.__name__]


def test_a_local_task_travels_whole() -> None:
    @cs.task(name="fact", pure=True, resources={"gpu": 1}, retry=2)
    def factorial(n: int) -> Any:
        return factorial(n - 1)

    clone = cloudpickle.loads(cloudpickle.dumps(factorial))
    assert clone.options() == factorial.options()
    inner = clone.func(3)
    assert isinstance(inner, cs.LazyResult)
    assert inner.args == (2,)
    assert inner.task.name == "fact"


def test_importing_is_light(root: Any) -> None:
    code = (
        "import sys, cascade_dist as cs\n"
        "t = cs.task(lambda x: x); cs.visualize([t(1)]); cs.dry_run([t(1)], quiet=True)\n"
        "heavy = {'grpc', 'redis', 'aiohttp', 'numpy', 'asyncio', 'google', 'cloudpickle', 'pydantic'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_module_knows_its_names() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = cs.nonsense  # type: ignore[attr-defined]
    assert {"run", "task", "visualize", "aio"} <= set(dir(cs))
