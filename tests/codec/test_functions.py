"""Functions travel by name where a worker can import them, by value where it cannot."""

from __future__ import annotations

import functools
import importlib
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from cascade_dist.codec import references
from cascade_dist.codec.cid import cid_of
from cascade_dist.codec.functions import EncodedFunction, FunctionCache, load_function
from cascade_dist.errors import SerializationError, TaskLoadError
from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.language.task import Task, task


def encode(function: Any, code_hash: bytes = b"") -> EncodedFunction:
    return FunctionCache().encode(function, code_hash)


def hashed(function: Any) -> bytes:
    found = CodeHasher().hash(function)
    return b"" if found.reason else found.digest


def top_level(x: int) -> int:
    """Importable by name."""
    return x + 1


@task
def decorated(x: int) -> int:
    """Importable by name, as a task."""
    return x + 2


def plain(x: int) -> int:
    """Importable by its own name, whatever the task of it is called."""
    return x + 3


renamed = task(plain, name="other")


def logged(func: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator as people write them."""

    @functools.wraps(func)
    def wrapper(*args: Any) -> Any:
        return ("logged", func(*args))

    return wrapper


@task
@logged
def wrapped_task(x: int) -> int:
    """A task of a wrapper."""
    return x * 2


@logged
def wrapped(x: int) -> int:
    """A wrapper that has taken the function's place."""
    return x * 3


class Adder:
    """Objects that can be called, and methods."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __call__(self, x: int) -> int:
        return x + self.n

    def method(self, x: int) -> int:
        """A method."""
        return x - self.n

    @staticmethod
    def static(x: int) -> int:
        """A static method."""
        return x + 100


# --- by name ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "result"),
    [(top_level, 6), (decorated, 7), (renamed, 8), (wrapped_task, ("logged", 10)), (wrapped, ("logged", 15))],
)
def test_what_can_be_imported_travels_by_name(function: Any, result: Any) -> None:
    encoded = encode(function, b"h" * 16)
    assert len(encoded.body) < 200
    assert encoded.cid == cid_of(encoded.body)
    assert encoded.name.startswith(f"{__name__}.")
    loaded = load_function(encoded.body)
    assert not isinstance(loaded, Task)
    assert loaded(5) == result
    expected = function.func if isinstance(function, Task) else function
    assert loaded is expected


def test_static_methods_and_builtins_travel_by_name() -> None:
    for function, name in (
        (Adder.static, "Adder.static"),
        (len, "builtins.len"),
        (os.path.join, "posixpath.join"),
    ):
        encoded = encode(function)
        assert encoded.name.endswith(name)
        assert load_function(encoded.body) is function


def test_the_body_by_name_is_the_same_in_every_process_and_follows_the_code() -> None:
    first, again, other = (
        encode(top_level, b"1" * 16),
        encode(top_level, b"1" * 16),
        encode(top_level, b"2" * 16),
    )
    assert first == again
    assert first.cid != other.cid
    script = (
        f"import {__name__} as m\nfrom cascade_dist.codec.functions import FunctionCache\n"
        "print(FunctionCache().encode(m.top_level, b'1' * 16).cid.hex())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment
    )
    assert done.stdout.strip() == first.cid.hex()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    """A module of the user's, which a worker may lack."""
    (tmp_path / "users_module.py").write_text("def compute(x):\n    return x + 1\n\nclass Kind:\n    pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("users_module")
    sys.modules.pop("users_module", None)
    references._stamps.pop("users_module", None)


def test_a_module_that_the_worker_lacks_is_named_with_the_remedy(
    module: types.ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = encode(module.compute).body
    monkeypatch.delitem(sys.modules, "users_module")
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != os.path.dirname(str(module.__file__))])
    with pytest.raises(TaskLoadError) as caught:
        load_function(body)
    for word in ("no module 'users_module'", "'compute'", "PYTHONPATH", "register_pickle_by_value"):
        assert word in str(caught.value)


def test_a_module_that_lacks_another_names_that_one(module: types.ModuleType, tmp_path: Path) -> None:
    body = encode(module.compute).body
    (tmp_path / "users_module.py").write_text("import numpi\n")
    del sys.modules["users_module"]
    with pytest.raises(TaskLoadError, match="needs 'numpi', which the worker lacks"):
        load_function(body)


def test_another_version_of_a_module_is_named(module: types.ModuleType) -> None:
    body = encode(module.compute).body
    del module.compute
    with pytest.raises(TaskLoadError, match="has no 'compute': it is another version") as caught:
        load_function(body)
    assert str(module.__file__) in str(caught.value)


def test_a_module_that_raises_when_imported(module: types.ModuleType, tmp_path: Path) -> None:
    body = encode(module.compute).body
    (tmp_path / "users_module.py").write_text("raise OSError('no display')\n")
    del sys.modules["users_module"]
    with pytest.raises(TaskLoadError, match="raised OSError when the worker imported it: no display"):
        load_function(body)


def test_a_module_whose_file_has_changed_is_loaded_again(module: types.ModuleType) -> None:
    path = Path(str(module.__file__))
    body = encode(module.compute).body
    assert load_function(body)(1) == 2
    path.write_text("def compute(x):\n    return x + 1000\n")
    os.utime(path, ns=(1, 1))
    assert load_function(body)(1) == 1001


def test_a_module_registered_by_value_goes_along(module: types.ModuleType) -> None:
    cloudpickle.register_pickle_by_value(module)
    try:
        encoded = encode(module.compute)
        assert encoded.name == "users_module.compute"
        done = subprocess.run(
            [sys.executable, "-c", "import sys, pickle; print(pickle.load(sys.stdin.buffer)(1))"],
            input=encoded.body,
            capture_output=True,
            check=True,
        )
        assert done.stdout.strip() == b"2"
    finally:
        cloudpickle.unregister_pickle_by_value(module)
    assert len(encode(module.compute).body) < len(encoded.body)


# --- by value ---------------------------------------------------------------------------------------


def in_another_process(script: str, argument: int) -> str:
    """What the last expression of a script, a task or function, gives in a process that lacks the script."""
    text = textwrap.dedent(script) + (
        "\nimport sys\nfrom cascade_dist.codec.functions import FunctionCache\n"
        "sys.stdout.buffer.write(FunctionCache().encode(it).body)\n"
    )
    body = subprocess.run([sys.executable, "-c", text], capture_output=True, check=True).stdout
    runner = (
        "import sys\nfrom cascade_dist.codec.functions import load_function\n"
        f"print(load_function(sys.stdin.buffer.read())({argument}))"
    )
    done = subprocess.run([sys.executable, "-c", runner], input=body, capture_output=True, check=True)
    return done.stdout.decode().strip()


SCRIPTS = {
    "lambda": ("it = lambda x: x + 1", "6"),
    "helper": ("K = 3\ndef helper(x): return x * K\ndef it(x): return helper(x)", "15"),
    "nested": ("def outer(k):\n    def inner(x): return x * k\n    return inner\nit = outer(4)", "20"),
    "partial": ("import functools\ndef f(a, b): return a - b\nit = functools.partial(f, 7)", "2"),
    "object": ("class C:\n    k = 9\n    def __call__(self, x): return x + self.k\nit = C()", "14"),
    "method": ("class C:\n    k = 8\n    def m(self, x): return x + self.k\nit = C().m", "13"),
    "class": (
        "class it:\n    def __init__(self, x): self.x = x\n    def __repr__(self): return 'it!'",
        "it!",
    ),
    "wrapper": (
        """
        import functools
        def deco(f):
            @functools.wraps(f)
            def w(x): return f(x) + 1
            return w
        @deco
        def it(x): return x * 2
        """,
        "11",
    ),
    "task": (
        """
        from cascade_dist.language.task import task
        @task
        def it(x): return type(it).__name__ + str(x)
        """,
        "Task5",
    ),
    "imports": (
        "from math import sqrt\nimport json\ndef it(x): return json.dumps([int(sqrt(x * x))])",
        "[5]",
    ),
    "async": ("import asyncio\nasync def f(x): return x\ndef it(x): return asyncio.run(f(x))", "5"),
}


@pytest.mark.parametrize(("script", "result"), SCRIPTS.values(), ids=SCRIPTS)
def test_what_main_defines_travels_by_value(script: str, result: str) -> None:
    assert result in in_another_process(script, 5)


def test_a_helper_that_was_defined_anew_goes_along() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    exec("def helper(x): return x + 1\ndef run(x): return helper(x)", scope)
    cache = FunctionCache()
    assert load_function(cache.encode(scope["run"], hashed(scope["run"])).body)(1) == 2
    exec("def helper(x): return x + 100", scope)
    assert (
        load_function(cache.encode(scope["run"], hashed(scope["run"])).body)(1) == 2
    )  # one submit, one body
    assert load_function(encode(scope["run"], hashed(scope["run"])).body)(1) == 101


def test_an_equal_class_that_was_defined_anew_is_the_one_that_comes_back() -> None:
    scope: dict[str, Any] = {"__name__": "__main__"}
    source = "class Kind: pass"
    exec(f"{source}\ndef make(): return Kind()", scope)
    for _ in range(2):
        made = load_function(encode(scope["make"], hashed(scope["make"])).body)()
        assert isinstance(made, scope["Kind"])
        exec(source, scope)


def test_an_unchanged_function_is_not_pickled_again() -> None:
    def inner(x: int) -> int:
        return x

    first = encode(inner, hashed(inner))
    assert encode(inner, hashed(inner)) is first
    assert encode(inner, b"").body == first.body


def test_without_a_hash_what_has_changed_is_noticed_too() -> None:
    box = types.SimpleNamespace(n=1)

    def inner() -> int:
        n: int = box.n
        return n

    assert load_function(encode(inner).body)() == 1
    box.n = 2
    assert load_function(encode(inner).body)() == 2


def test_the_bodies_of_a_submit_can_be_asked_for() -> None:
    cache = FunctionCache()
    encoded = cache.encode(top_level)
    assert cache.body(encoded.cid) == encoded.body
    assert cache.body(b"?" * 36) is None


# --- what cannot travel -----------------------------------------------------------------------------


def test_the_error_names_what_a_function_carries() -> None:
    lock, lazy = threading.Lock(), decorated(1)
    scope: dict[str, Any] = {"__name__": "__main__", "LOCK": {"here": lock}}
    exec("def by_global(): return LOCK", scope)
    cases: list[tuple[Any, list[str]]] = [
        (lambda: lock, ["closure variable 'lock'", "_thread.lock", "make it inside the task"]),
        (scope["by_global"], ["global 'LOCK'", "['here']", "_thread.lock"]),
        (lambda x=lock: x, ["default 0", "_thread.lock"]),
        (lambda: lazy, ["closure variable 'lazy'", "lazy result of 'decorated'", "pass it as an argument"]),
        (functools.partial(top_level, lock), ["cannot be sent", "_thread.lock"]),
    ]
    bound = Adder(1)
    bound.n = lock  # type: ignore[assignment]
    cases.append((bound.method, ["the instance it is bound to, at .n", "_thread.lock"]))
    for function, words in cases:
        with pytest.raises(SerializationError) as caught:
            encode(function)
        for word in ["cannot be sent", *words]:
            assert word in str(caught.value)


def test_a_function_that_carries_too_much_is_refused() -> None:
    table, small = np.zeros(3 << 20), [1]
    with pytest.raises(SerializationError) as caught:
        encode(lambda: (table, small))
    for word in ("captures 24 MiB", "closure variable 'table'", "pass it as an argument", "16 MiB"):
        assert word in str(caught.value)


def test_a_body_that_is_none_of_ours() -> None:
    with pytest.raises(TaskLoadError, match="could not be loaded"):
        load_function(b"nonsense")
    with pytest.raises(TaskLoadError, match="no_such_module"):
        load_function(pickle.dumps(top_level, 0).replace(__name__.encode(), b"no_such_module"))
