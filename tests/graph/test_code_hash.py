"""The identity of code: what counts, and what does not."""

from __future__ import annotations

import dataclasses
import enum
import functools
import itertools
import json
import logging
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy
import pytest

import cascade_dist as cs
from cascade_dist.graph.build import build
from cascade_dist.graph.code_hash import CodeHash, CodeHasher

_numbers = itertools.count()


def define(source: str, name: str = "f", **names: Any) -> Any:
    """What a source defines under a name, in a module of its own that nothing can import."""
    namespace = {"__name__": "__main__", "cs": cs, **names}
    exec(compile(textwrap.dedent(source), f"file{next(_numbers)}.py", "exec"), namespace)
    return namespace[name]


def hashed(code: Any) -> CodeHash:
    return CodeHasher().hash(code)


def digest(source: str, name: str = "f", **names: Any) -> bytes:
    found = hashed(define(source, name, **names))
    assert found.reason == ""
    return found.digest


BASE = """
    def helper(x):
        return x + 1
    def f(x):
        return helper(x) * 2
"""


@pytest.mark.parametrize(
    "source",
    [
        """


    # a comment
    def helper(x):

        # another

        return x + 1


    def f(x):
        return helper(x) * 2  # and one here
    """,
        """
    def other(): pass
    def f(x):
        return helper(x) * 2
    UNUSED = 5
    def helper(x):
        return (x
                + 1)
    """,
        """
    def helper(x: int) -> int:
        return x + 1
    def f(x: "anything") -> int:
        return helper(x) * 2
    """,
    ],
)
def test_blank_lines_comments_places_and_annotations_do_not_count(source: str) -> None:
    assert digest(source) == digest(BASE)


@pytest.mark.parametrize(
    "source",
    [
        BASE.replace("* 2", "* 3"),
        BASE.replace("x + 1", "x + 2"),
        BASE.replace("x + 1", "x - 1"),
        BASE.replace("def f(x)", "def f(x, y=1)"),
        BASE.replace("def helper(x)", "def helper(x, y=1)"),
        BASE.replace("helper(x) *", "helper(x=x) *"),
        BASE.replace("* 2", "* 2.0"),
        BASE.replace("return helper(x) * 2", "return helper(x) * 2 if x else None"),
    ],
)
def test_code_and_helpers_count(source: str) -> None:
    assert digest(source) != digest(BASE)


def test_defaults_count() -> None:
    sources = [
        "def f(x=1): return x",
        "def f(x=2): return x",
        "def f(x=1.0): return x",
        "def f(x=True): return x",
        "def f(x=[1]): return x",
        "def f(x=(1,)): return x",
        "def f(*, x=1): return x",
        "def f(x): return x",
    ]
    assert len(set(map(digest, sources))) == len(sources)


def test_constants_count_by_type() -> None:
    sources = [
        f"def f(): return {text}" for text in ("1", "1.0", "True", "'1'", "b'1'", "1j", "-0.0", "0.0", "...")
    ]
    sources += [
        "def f(x): return x in {1, 2}",
        "def f(x): return x in {1, 3}",
        "def f(x): return x in (1, 2)",
    ]
    assert len(set(map(digest, sources))) == len(sources)


def test_globals_count_by_content() -> None:
    source = "def f(x): return x + SIZE"
    assert digest(source, SIZE=1) == digest(source, SIZE=1)
    found = {digest(source, SIZE=size) for size in (1, 2, 1.0, "1", [1], (1,), {1: 2}, {1}, None)}
    assert len(found) == 9
    assert digest(source, SIZE=1, UNUSED=5) == digest(source, SIZE=1)
    assert digest("def f(x): return x + SIZE") != digest(source, SIZE=1)


def test_a_global_changed_between_submits_counts() -> None:
    table = {"a": 1}
    task = cs.task(define("def f(x): return table[x]", table=table), pure=True)
    before = build(task("a")).structural_id
    assert build(task("a")).structural_id == before
    table["a"] = 2
    assert build(task("a")).structural_id != before


def test_a_helper_redefined_between_submits_counts() -> None:
    f = define(BASE)
    task = cs.task(f)
    before = build(task(1)).template_id
    assert build(task(1)).template_id == before
    f.__globals__["helper"] = define("def helper(x): return x + 5", "helper")
    assert build(task(1)).template_id != before


def test_globals_of_nested_functions_and_classes_count() -> None:
    source = """
    def f():
        class Local:
            def method(self):
                return [(lambda: SIZE)() for _ in range(3)]
        return Local().method()
    """
    assert digest(source, SIZE=1) != digest(source, SIZE=2)


def test_closures_count() -> None:
    source = """
    def make(n):
        def f(x): return x + n
        return f
    f, g, h = make(1), make(1), make(2)
    """
    assert digest(source, "f") == digest(source, "g")
    assert digest(source, "f") != digest(source, "h")


def test_a_closure_may_hold_itself_or_nothing() -> None:
    source = """
    def make():
        def f(n): return f(n - 1) if n else later
        return f
        later = 1
    f = make()
    """
    assert digest(source) == digest(source)


def test_recursion_and_mutual_recursion_are_code_like_other() -> None:
    even = "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\n"
    assert digest(even, "even") == digest(even, "even")
    assert digest(even, "even") != digest(even, "odd")
    assert digest(even, "even") != digest(even.replace("n != 0", "n != 1"), "even")


def test_a_hash_does_not_depend_on_what_was_hashed_before() -> None:
    source = "def even(n): return n == 0 or odd(n - 1)\ndef odd(n): return n != 0 and even(n - 1)\n"
    names = define(source, "even").__globals__
    hasher = CodeHasher()
    odd, even = hasher.hash(names["odd"]), hasher.hash(names["even"])
    assert hashed(names["even"]) == even
    assert hashed(names["odd"]) == odd


def test_long_chains_of_helpers_need_no_recursion() -> None:
    count = sys.getrecursionlimit() + 100
    source = (
        "\n".join(f"def f{n}(): return f{n + 1}()" for n in range(count)) + f"\ndef f{count}(): return LAST"
    )
    assert digest(source, "f0", LAST=1) != digest(source, "f0", LAST=2)


def test_tables_of_functions_count() -> None:
    source = (
        "def a(): return 1\ndef b(): return {}\nTABLE = {{'a': a, 'b': [b]}}\ndef f(k): return TABLE[k]()"
    )
    assert digest(source.format(2)) == digest(source.format(2))
    assert digest(source.format(2)) != digest(source.format(3))
    members = "def a(): return 1\ndef b(): return {}\nKNOWN = {{a, b}}\ndef f(k): return k in KNOWN"
    assert digest(members.format(2)) == digest(members.format(2))
    assert digest(members.format(2)) != digest(members.format(3))


CLASS = """
    class Base:
        def twice(self): return 2
    class C(Base):
        '''Docs.'''
        limit = 3
        def __init__(self): self.n = 1
        @property
        def size(self): return self.n
        @staticmethod
        def static(): return 4
        @classmethod
        def made(cls): return cls()
        @functools.cached_property
        def cached(self): return 5
        def up(self): return super().__init__
    def f(): return C().size
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("limit = 3", "limit = 4"),
        ("return self.n", "return -self.n"),
        ("return 4", "return 44"),
        ("return cls()", "return cls"),
        ("return 5", "return 55"),
        ("return 2", "return 22"),
        ("class C(Base)", "class C(Base, dict)"),
    ],
)
def test_classes_that_code_reaches_count(old: str, new: str) -> None:
    assert digest(CLASS, functools=functools) == digest(CLASS.replace("Docs.", "Other."), functools=functools)
    assert digest(CLASS, functools=functools) != digest(CLASS.replace(old, new), functools=functools)


@pytest.mark.parametrize(
    "source",
    [
        "@dataclasses.dataclass\nclass C:\n    a: int = 1\n    b: int = dataclasses.field(default=1)",
        "@dataclasses.dataclass(frozen=True, slots=True)\nclass C:\n    a: int = 1",
        "class C(enum.Enum):\n    A = 1\n    B = 'x'",
        "class C(enum.IntFlag):\n    A = 1\n    B = 2",
        "class C(typing.NamedTuple):\n    a: int = 1",
        "C = collections.namedtuple('C', 'a b')",
        "class C(abc.ABC):\n    @abc.abstractmethod\n    def m(self): return 1",
        "class C(typing.Generic[T]):\n    x: list[int] = []",
        "class C(typing.Protocol):\n    def m(self): ...",
        "class C(typing.TypedDict):\n    a: int",
        "class C(Exception):\n    code = 1",
        "class Meta(type):\n    extra = 1\nclass C(metaclass=Meta):\n    pass",
    ],
)
def test_classes_of_every_kind_have_a_hash(source: str) -> None:
    import abc
    import collections
    import typing

    names = {
        "dataclasses": dataclasses,
        "enum": enum,
        "typing": typing,
        "collections": collections,
        "abc": abc,
        "T": typing.TypeVar("T"),
    }
    whole = source + "\ndef f(): return C"
    assert digest(whole, **names) == digest(whole, **names)
    changed = whole.replace("1", "2") if "1" in whole else whole.replace("a b", "a c").replace("[]", "[1]")
    if changed != whole:
        assert digest(changed, **names) != digest(whole, **names)


def test_installed_code_counts_by_name_and_is_not_walked() -> None:
    hasher = CodeHasher()
    found = hasher.hash(
        define(
            "def f(x): return json.dumps(x), dumps(x), partial(print)",
            json=json,
            dumps=json.dumps,
            partial=functools.partial,
        )
    )
    assert found.reason == ""
    assert len(hasher._descriptions) <= 4
    assert hashed(json.dumps) == hashed(json.dumps)
    assert hashed(json.dumps) != hashed(json.loads)


def test_a_wrapper_from_a_library_counts_by_what_it_wraps() -> None:
    source = "@functools.lru_cache\ndef f(x): return {}"
    assert digest(source.format(1), functools=functools) != digest(source.format(2), functools=functools)
    wrapped = """
    def g(x): return {}
    @contextlib.contextmanager
    def f(): yield g
    """
    import contextlib

    assert digest(wrapped.format(1), contextlib=contextlib) != digest(
        wrapped.format(2), contextlib=contextlib
    )


@pytest.fixture
def user_module() -> Iterator[types.ModuleType]:
    module = types.ModuleType("helpers_of_a_test")
    exec("def compute(x): return x + 1\nSIZE = 3\nclass Inner:\n    pass", module.__dict__)
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


@pytest.mark.parametrize(
    "source",
    [
        "def f(x): return helpers.compute(x)",
        "def f(x):\n    from helpers_of_a_test import compute\n    return compute(x)",
        "def f(x):\n    import helpers_of_a_test as h\n    return helpers.compute(x)",
    ],
)
def test_helpers_in_a_users_module_count(user_module: types.ModuleType, source: str) -> None:
    before = digest(source, helpers=user_module)
    assert digest(source, helpers=user_module) == before
    exec("def unused(): pass", user_module.__dict__)
    assert digest(source, helpers=user_module) == before
    exec("def compute(x): return x + 2", user_module.__dict__)
    assert digest(source, helpers=user_module) != before


def test_values_of_a_users_module_count(user_module: types.ModuleType) -> None:
    source = "def f(): return helpers.SIZE, helpers.missing, helpers"
    before = digest(source, helpers=user_module)
    user_module.__dict__["SIZE"] = 4
    assert digest(source, helpers=user_module) != before


class Callable1:
    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self) -> int:
        return self.n

    def method(self) -> int:
        return -self.n


def test_callables_of_every_kind_have_a_hash() -> None:
    callables: list[Callable[..., Any]] = [
        Callable1(1),
        Callable1(2),
        Callable1(1).method,
        Callable1(2).method,
        Callable1,
        functools.partial(json.dumps, indent=1),
        functools.partial(json.dumps, indent=2),
        functools.lru_cache(lambda: 1),
        functools.lru_cache(lambda: 2),
        len,
        [].append,
        str.upper,
        json.dumps,
        cs.task(lambda: 1),
        cs.task(lambda: 1, timeout=3),
    ]
    digests = set()
    for code in callables:
        assert hashed(code).reason == "", code
        digests.add(hashed(code).digest)
    assert len(digests) == len(callables)
    assert hashed(Callable1(1)) == hashed(Callable1(1))
    assert hashed(functools.partial(json.dumps, indent=1)) == hashed(functools.partial(json.dumps, indent=1))


def test_functions_of_compiled_libraries_count_by_name() -> None:
    source = "def f(x): return g(x)"
    found = {digest(source, g=g) for g in (numpy.sqrt, numpy.exp, numpy.sum, numpy.mean, numpy.linalg.norm)}
    assert len(found) == 5
    assert digest("def f(x): return np.sqrt(x)", np=numpy) == digest("def f(x): return np.sqrt(x)", np=numpy)
    assert hashed(numpy.sqrt).reason == ""
    wrapped = "f = np.vectorize(lambda x: x + {})"
    assert digest(wrapped.format(1), np=numpy) != digest(wrapped.format(2), np=numpy)


def test_loggers_do_not_stand_in_the_way() -> None:
    source = "def f(): log.info('x')"
    assert digest(source, log=logging.getLogger("a")) == digest(source, log=logging.getLogger("a"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def f(): return lock", "global lock of f is or holds a _thread.lock"),
        ("def g(): return [lock]\ndef f(): return g()", "global lock of g is or holds a _thread.lock"),
        ("class C:\n    guard = lock\ndef f(): return C", "C.guard is or holds a _thread.lock"),
        ("def f(x=lock): return x", "a default of f is or holds a _thread.lock"),
        (
            "def m(k):\n    def f(): return k\n    return f\nf = m(lock)",
            "'k' in the closure of f is or holds",
        ),
        ("def f(): return lazy", "global lazy of f is or holds a lazy result"),
        ("deep = []\nfor _ in range(5000): deep = [deep]\ndef f(): return deep", "nested too deeply"),
    ],
)
def test_what_cannot_be_hashed_is_named_and_only_pure_tasks_mind(source: str, words: str) -> None:
    names = {"lock": threading.Lock(), "lazy": cs.task(lambda: 1)()}
    f = define(source, **names)
    found = hashed(f)
    assert words in found.reason
    spec = build(cs.task(f)()).nodes[-1].spec
    assert spec.code_hash == b""
    assert words in spec.unhashable
    assert spec.digest
    with pytest.raises(
        cs.GraphError, match=r"task 'f' is pure, which needs a hash of its code, but .*pure off"
    ):
        build(cs.task(f, pure=True)())


def test_a_hashable_task_has_its_hash_in_the_spec() -> None:
    task = cs.task(define(BASE))
    spec = build(task(1)).nodes[0].spec
    assert spec.code_hash == hashed(task.func).digest
    assert spec.unhashable == ""


def test_the_second_hash_is_cheap() -> None:
    f = define(BASE)
    hashed(f)
    rounds = []
    for _ in range(50):
        start = time.perf_counter()
        CodeHasher().hash(f)
        rounds.append(time.perf_counter() - start)
    assert min(rounds) < 100e-6  # about 10e-6; the bound is for slow machines
