"""What a task raised arrives as it was, or says what it was."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade_dist.codec.exceptions import (
    MESSAGE_CHARS_MAX,
    PICKLED_BYTES_MAX,
    TRACEBACK_CHARS_MAX,
    ErrorRecord,
    decode_exception,
    encode_exception,
)
from cascade_dist.codec.values import dump_inline_or_packed, load
from cascade_dist.errors import DependencyMissingError, RemoteTaskError, RemoteTraceback


def raised(act: Callable[[], Any]) -> BaseException:
    """What a call raises, with its traceback."""
    try:
        act()
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def travelled(exc: BaseException) -> BaseException:
    record = encode_exception(exc)
    assert len(record.pickled) <= PICKLED_BYTES_MAX
    assert len(record.message) <= MESSAGE_CHARS_MAX
    assert len(record.traceback) <= TRACEBACK_CHARS_MAX
    return decode_exception(ErrorRecord(*pickle.loads(pickle.dumps(tuple(record)))))


def throw(exc: BaseException) -> Any:
    """The line that users look for."""
    raise exc


def test_type_message_arguments_and_lines_arrive() -> None:
    record = encode_exception(raised(lambda: throw(KeyError("k", 3))))
    assert record.type == "KeyError"
    assert record.message == "('k', 3)"
    got = decode_exception(record)
    assert type(got) is KeyError
    assert got.args == ("k", 3)
    frames = traceback.extract_tb(got.__traceback__)
    assert [frame.name for frame in frames] == ["raised", "<lambda>", "throw"]
    assert frames[-1].line == "raise exc"
    assert frames[-1].filename == __file__
    assert isinstance(got.__cause__, RemoteTraceback)
    text = "".join(traceback.format_exception(got))
    assert text.count("raise exc") == 2
    assert "in throw" in got.__cause__.text


def test_it_can_be_raised_again_and_caught_as_what_it_was() -> None:
    got = travelled(raised(lambda: throw(FileNotFoundError(2, "No such file", "/a/b"))))
    with pytest.raises(FileNotFoundError) as caught:
        raise got
    assert caught.value.errno == 2
    assert caught.value.filename == "/a/b"


def test_our_own_frames_are_left_out() -> None:
    scope: dict[str, Any] = {"__name__": "cascade_worker.executor.sync"}
    exec("def run_task(func):\n    return func()", scope)

    def users() -> None:
        scope["run_task"](lambda: throw(ValueError("inner")))  # ours below the user's own stay

    exc = raised(lambda: scope["run_task"](users))
    exc.__traceback__ = exc.__traceback__ and exc.__traceback__.tb_next and exc.__traceback__.tb_next.tb_next
    got = travelled(exc)
    names = [frame.name for frame in traceback.extract_tb(got.__traceback__)]
    assert names == ["users", "run_task", "<lambda>", "throw"]
    assert isinstance(got.__cause__, RemoteTraceback)
    assert got.__cause__.text.splitlines()[1].endswith("in users")


def test_an_error_of_ours_alone_keeps_its_frames() -> None:
    exc = raised(lambda: load(b"CDP1"))
    own = exc.__traceback__
    while own is not None and own.tb_frame.f_globals["__name__"] == __name__:
        own = own.tb_next
    assert own is not None
    exc.__traceback__ = own
    assert "in load" in encode_exception(exc).traceback


# --- chains -----------------------------------------------------------------------------------------


def test_causes_and_contexts_arrive() -> None:
    def chain() -> None:
        try:
            try:
                throw(KeyError("first"))
            except KeyError:
                throw(TypeError("second"))
        except TypeError as second:
            raise ValueError("third") from second

    got = travelled(raised(chain))
    assert str(got) == "third"
    second = got.__cause__
    assert isinstance(second, TypeError)
    first = second.__context__
    assert isinstance(first, KeyError)
    assert second.__cause__ is None
    assert isinstance(first.__cause__, RemoteTraceback)
    assert [frame.name for frame in traceback.extract_tb(second.__traceback__)] == ["chain", "throw"]
    text = "".join(traceback.format_exception(got))
    assert text.index("first") < text.index("second") < text.index("third")


def test_from_none_stays_so() -> None:
    def quiet() -> None:
        try:
            throw(KeyError("hidden"))
        except KeyError:
            raise ValueError("shown") from None

    got = travelled(raised(quiet))
    assert isinstance(got.__context__, KeyError)
    assert isinstance(got.__cause__, RemoteTraceback)
    assert got.__suppress_context__
    assert "hidden" not in "".join(traceback.format_exception(got))


def test_notes_arrive() -> None:
    exc = ValueError("with notes")
    exc.add_note("look here")
    got = travelled(exc)
    assert got.__notes__ == ["look here"]


def test_groups_arrive_with_the_tracebacks_of_their_members() -> None:
    members = [raised(lambda: throw(ValueError("a"))), ExceptionGroup("inner", [KeyError("b")])]
    group = ExceptionGroup("outer", members)  # type: ignore[type-var]
    group.__cause__ = members[0]
    got = travelled(raised(lambda: throw(group)))
    assert isinstance(got, ExceptionGroup)
    assert got.message == "outer"
    first, inner = got.exceptions
    assert isinstance(first, ValueError)
    assert traceback.extract_tb(first.__traceback__)[-1].name == "throw"
    assert isinstance(inner, ExceptionGroup)
    assert isinstance(inner.exceptions[0], KeyError)
    assert got.__cause__ is first
    assert got.subgroup(KeyError) is not None


def test_a_chain_that_bites_its_tail() -> None:
    first, second = ValueError("1"), ValueError("2")
    first.__context__, second.__context__ = second, first
    got = travelled(first)
    assert got.__context__ is not None
    assert got.__context__.__context__ is got


def test_a_very_long_chain_is_cut() -> None:
    exc = ValueError("0")
    for number in range(500):
        outer = ValueError(str(number + 1))
        outer.__cause__ = exc
        exc = outer
    got: BaseException | None = travelled(exc)
    count = 0
    while got is not None:
        got, count = got.__cause__, count + 1
    assert 50 < count < 100


def test_recursion_without_end() -> None:
    def recurse(n: int) -> int:
        return recurse(n + 1) + 1

    got = travelled(raised(lambda: recurse(0)))
    assert isinstance(got, RecursionError)
    assert 10 < len(traceback.extract_tb(got.__traceback__)) <= 101


# --- exceptions that do not pickle as they should -----------------------------------------------------


class WantsMore(Exception):
    """Its pickle cannot be loaded: __init__ wants two arguments, args has one."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code}: {reason}")
        self.code = code
        self.reason = reason


class Prefixed(ValueError):
    """Its pickle loads as something else: the prefix comes twice."""

    def __init__(self, what: str) -> None:
        super().__init__(f"failed: {what}")


class KeywordOnly(Exception):
    """Its args are empty."""

    def __init__(self, *, detail: str) -> None:
        self.detail = detail

    def __str__(self) -> str:
        return f"detail is {self.detail}"


class OwnOSError(OSError):
    """A class with state below Python."""

    def __init__(self, code: int, extra: str, more: int) -> None:
        super().__init__(code, extra)
        self.more = more


@pytest.mark.parametrize(
    "exc",
    [
        WantsMore(4, "no"),
        Prefixed("x"),
        KeywordOnly(detail="d"),
        OwnOSError(2, "gone", 7),
        DependencyMissingError("f", "x", "g", "ConditionFalse"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
        StopIteration(5),
        SystemExit(3),
        KeyboardInterrupt(),
        subprocess.CalledProcessError(3, ["a"], output=b"o"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_type_message_and_attributes_survive(exc: BaseException) -> None:
    got = travelled(raised(lambda: throw(exc)))
    assert type(got) is type(exc)
    assert str(got) == str(exc)
    assert got.args == exc.args
    assert vars(got) == vars(exc)


def test_attributes_and_arguments_that_cannot_be_pickled() -> None:
    exc = WantsMore(1, "r")
    exc.lock = threading.Lock()  # type: ignore[attr-defined]
    exc.args = ("text", threading.Lock())
    got = travelled(exc)
    assert isinstance(got, WantsMore)
    assert got.code == 1
    assert not hasattr(got, "lock")
    assert got.args == ("text", "<_thread.lock object>")


def test_an_exception_that_refuses_to_be_pickled_or_shown() -> None:
    class Stubborn(Exception):
        def __reduce__(self) -> Any:
            raise RuntimeError("not me")

        def __str__(self) -> str:
            raise RuntimeError("nor this")

    record = encode_exception(raised(lambda: throw(Stubborn("x"))))
    assert "its __str__ raised RuntimeError" in record.message
    assert decode_exception(record).__class__.__name__ in ("Stubborn", "RemoteTaskError")


def test_one_that_makes_itself_in_its_own_way() -> None:
    class Made(Exception):
        def __new__(cls, a: int, b: int) -> Made:
            return super().__new__(cls, a)

        def __init__(self, a: int, b: int) -> None:
            super().__init__(a)

    got = travelled(raised(lambda: throw(Made(1, 2))))
    assert type(got) is RemoteTaskError
    assert str(got).endswith("Made: 1")


def test_a_class_that_the_client_lacks() -> None:
    script = """
import sys, types, pickle
module = types.ModuleType("workers_only")
exec("class Odd(Exception): pass", module.__dict__)
sys.modules["workers_only"] = module
from cascade_dist.codec.exceptions import encode_exception
try:
    try: raise KeyError("cause")
    except KeyError as e: raise module.Odd("only there") from e
except Exception as e:
    sys.stdout.buffer.write(pickle.dumps(tuple(encode_exception(e))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    got = decode_exception(ErrorRecord(*pickle.loads(done.stdout)))
    assert type(got) is RemoteTaskError
    assert str(got) == "workers_only.Odd: only there"
    assert isinstance(got.__cause__, KeyError)


def test_a_class_of_main_travels_by_value() -> None:
    script = """
import sys, pickle
# As an executor has it: made by value, so that its __main__ does not know it.
scope = {"__name__": "__main__"}
exec('''class Mine(Exception):
    def __init__(self, a, b):
        super().__init__(a)
        self.b = b''', scope)
from cascade_dist.codec.exceptions import encode_exception
try: raise scope["Mine"]("a", 2)
except Exception as e: sys.stdout.buffer.write(pickle.dumps(tuple(encode_exception(e))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    record = ErrorRecord(*pickle.loads(done.stdout))
    assert record.type == "Mine"
    got = decode_exception(record)
    assert type(got).__name__ == "Mine"
    assert (got.args, vars(got)) == (("a",), {"b": 2})


# --- bounds -----------------------------------------------------------------------------------------


def test_a_huge_message_is_cut() -> None:
    exc = raised(lambda: throw(ValueError("m" * 5_000_000)))
    record = encode_exception(exc)
    assert "characters in all" in record.message
    got = travelled(exc)
    assert type(got) is ValueError
    assert str(got) == record.message


def test_a_huge_attribute_is_no_reason_to_lose_the_type() -> None:
    exc = WantsMore(1, "r")
    exc.table = np.zeros(1 << 20)  # type: ignore[attr-defined]
    got = travelled(exc)
    assert isinstance(got, WantsMore)
    assert got.code == 1


def test_damaged_bytes_become_text() -> None:
    record = ErrorRecord("pkg.Error", "what happened", "Traceback …", b"\x80\x05garbage")
    got = decode_exception(record)
    assert type(got) is RemoteTaskError
    assert str(got) == "pkg.Error: what happened"
    assert isinstance(got.__cause__, RemoteTraceback)
    assert decode_exception(ErrorRecord("E", "m", "", b"")).__cause__ is None


def test_writing_to_a_read_only_array_says_what_to_do(tmp_path: Path) -> None:
    payload = dump_inline_or_packed(np.arange(100_000))
    assert not isinstance(payload, bytes)
    array = load(payload.to_bytes())
    record = encode_exception(raised(lambda: array.__setitem__(0, 1)))
    assert ".copy()" in record.traceback
    assert ".copy()" in decode_exception(record).__notes__[0]


@given(args=st.lists(st.none() | st.integers() | st.text() | st.binary() | st.lists(st.integers())))
def test_any_arguments(args: list[Any]) -> None:
    got = travelled(RuntimeError(*args))
    assert type(got) is RuntimeError
    assert got.args == tuple(args)
