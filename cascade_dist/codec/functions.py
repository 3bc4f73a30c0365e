"""User functions as bytes: by name where a worker can import them, by value where it cannot.

A body is a pickle, named by the CID of its bytes. The code hash that goes with a name changes the bytes, and
so the CID, when the code has changed.
"""

from __future__ import annotations

import pickle
import types
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from cascade_dist.codec.cid import cid_of
from cascade_dist.codec.graph_pickler import ByValuePickler
from cascade_dist.codec.pickling import PROTOCOL, culprit, remedy, type_name
from cascade_dist.codec.references import Reference, display_name, import_reference, reference_of, unwrap_task
from cascade_dist.errors import SerializationError, TaskLoadError

__all__ = ["BODY_BYTES_MAX", "EncodedFunction", "FunctionCache", "load_function"]

BODY_BYTES_MAX = 16 << 20
"""Larger bodies are refused: what a function carries along should be an argument."""

_MEMO_BYTES_MAX = 64 << 20
_MEMO_ENTRIES_MAX = 4_096


class EncodedFunction(NamedTuple):
    """A function that is ready to travel."""

    cid: bytes
    """Binary CIDv1 of the body."""
    body: bytes
    name: str
    """Module and qualified name, for messages to people."""
    code_hash: bytes
    """Canonical hash of the code; empty when something in it has none."""


class FunctionCache:
    """Encodes the functions of one submit, each once.

    What a submit has encoded is remembered for later ones by its code hash, so that a function that has not
    changed costs next to nothing, and one that was defined anew, or whose helper was, goes along.
    """

    def __init__(self) -> None:
        self._seen: dict[int, tuple[object, EncodedFunction]] = {}  # by id, of objects that are kept alive
        self._bodies: dict[bytes, bytes] = {}

    def encode(self, task_or_func: Any, code_hash: bytes = b"") -> EncodedFunction:
        """The function's body and its CID.

        Args:
            task_or_func: a task or any callable.
            code_hash: canonical hash of its code; without one it is pickled at every submit.

        Raises:
            SerializationError: it cannot be pickled, or carries too much; names it, the part and the remedy.
        """
        seen = self._seen.get(id(task_or_func))
        if seen is None:
            encoded = _encode(task_or_func, code_hash)
            self._bodies[encoded.cid] = encoded.body
            seen = self._seen[id(task_or_func)] = (task_or_func, encoded)
        return seen[1]

    def body(self, cid: bytes) -> bytes | None:
        """The body of a function that this submit has encoded."""
        return self._bodies.get(cid)


def _encode(task_or_func: Any, code_hash: bytes) -> EncodedFunction:
    reference = reference_of(task_or_func) or reference_of(unwrap_task(task_or_func))
    if reference is not None:
        key: Any = (reference, code_hash)
        return _memo.get(key) or _memo.put(key, _by_reference(reference, code_hash))
    func = unwrap_task(task_or_func)
    if not code_hash:
        return _by_value(func, code_hash)
    # The function itself and the classes that it names are part of the key: of two equal definitions a client
    # wants instances of the one that it has now. The entry keeps them alive, so their ids stay theirs.
    kept = (func, *_classes_named(func))
    key = (code_hash, *map(id, kept))
    return _memo.get(key) or _memo.put(key, _by_value(func, code_hash), kept)


def _classes_named(func: Any) -> Iterator[type]:
    code, scope = getattr(func, "__code__", None), getattr(func, "__globals__", None)
    if isinstance(code, types.CodeType) and isinstance(scope, dict):
        yield from (scope[name] for name in code.co_names if isinstance(scope.get(name), type))


def _by_reference(reference: Reference, code_hash: bytes) -> EncodedFunction:
    body = pickle.dumps(_ByName(*reference, code_hash), PROTOCOL)
    return EncodedFunction(cid_of(body), body, ".".join(reference), code_hash)


def _by_value(func: Any, code_hash: bytes) -> EncodedFunction:
    name = display_name(func)
    try:
        body = ByValuePickler().run(func).pickled()
    except Exception as error:
        raise _refusal(func, name, error) from error
    if len(body) > BODY_BYTES_MAX:
        raise SerializationError(
            f"function {name!r} captures {len(body) / (1 << 20):,.0f} MiB{_largest(func)}; pass it as an "
            f"argument (the most is {BODY_BYTES_MAX >> 20} MiB)"
        )
    return EncodedFunction(cid_of(body), body, name, code_hash)


class _ByName:
    """Pickles as the function that a name stands for."""

    def __init__(self, module: str, qualname: str, code_hash: bytes) -> None:
        self._args = (module, qualname, code_hash)

    def __reduce__(self) -> Any:
        return _function_by_name, self._args


def _function_by_name(module: str, qualname: str, code_hash: bytes) -> Any:
    return unwrap_task(import_reference(module, qualname))


def _captured(func: Any) -> Iterator[tuple[str, object]]:
    """What a function carries along, with a description of each."""
    while isinstance(func, types.MethodType) or hasattr(func, "__wrapped__"):
        if isinstance(func, types.MethodType):
            yield "the instance it is bound to", func.__self__
            func = func.__func__
            continue
        if getattr(func, "__closure__", None) is not None:
            break
        func = func.__wrapped__
    code = getattr(func, "__code__", None)
    if not isinstance(code, types.CodeType):
        for name, value in getattr(func, "__dict__", {}).items():
            yield f"its attribute {name!r}", value
        return
    for name, cell in zip(code.co_freevars, func.__closure__ or (), strict=False):
        try:
            yield f"its closure variable {name!r}", cell.cell_contents
        except ValueError:  # not bound yet
            continue
    for name in _names(code):
        if name in func.__globals__:
            yield f"the global {name!r}", func.__globals__[name]
    for index, value in enumerate(func.__defaults__ or ()):
        yield f"its default {index}", value


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from _names(const)


def _refusal(func: Any, name: str, error: Exception) -> SerializationError:
    def probe(part: object) -> object:
        return ByValuePickler().run(part)

    for where, value in _captured(func):
        if value is func:
            continue
        path, part, found = culprit(value, probe)
        if found is not None:
            at = f", at {path}" if path else ""
            what = f"{where}{at} is a {type_name(part)} ({found})"
            return SerializationError(f"function {name!r} cannot be sent: {what}: {remedy(part, found)}")
    return SerializationError(f"function {name!r} cannot be sent ({error}): {remedy(func, error)}")


def _largest(func: Any) -> str:
    sizes = []
    for where, value in _captured(func):
        try:
            sizes.append((ByValuePickler().run(value).size, where))
        except Exception:
            continue
    return f" (most of it is {max(sizes)[1]})" if sizes else ""


def load_function(body: bytes) -> Callable[..., Any]:
    """The function of a body, on a worker.

    Raises:
        TaskLoadError: a module that it needs is not there, or it does not load; names it and the remedy.
    """
    try:
        func: Callable[..., Any] = pickle.loads(body)
    except TaskLoadError:
        raise
    except ImportError as error:
        raise TaskLoadError(
            f"a function could not be loaded: the worker lacks module {error.name or '?'!r} ({error}). "
            "Install it on the workers, or put its directory on their PYTHONPATH",
            name=error.name,
        ) from error
    except Exception as error:
        raise TaskLoadError(f"a function could not be loaded: {type(error).__name__}: {error}") from error
    return func


class _Memo:
    """What earlier submits encoded, by what makes it; bounded in entries and bytes, least used goes first."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Any, tuple[EncodedFunction, object]] = OrderedDict()
        self._bytes = 0

    def get(self, key: Any) -> EncodedFunction | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: Any, encoded: EncodedFunction, kept: object = None) -> EncodedFunction:
        if key not in self._entries:
            self._bytes += len(encoded.body)
        self._entries[key] = (encoded, kept)
        while self._entries and (len(self._entries) > _MEMO_ENTRIES_MAX or self._bytes > _MEMO_BYTES_MAX):
            self._bytes -= len(self._entries.popitem(last=False)[1][0].body)
        return encoded


_memo = _Memo()
