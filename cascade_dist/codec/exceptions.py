"""What a task raised, as bytes: type, message, traceback, and the exception itself where it can be pickled.

An exception travels with its causes, contexts, notes and the members of groups. Each of them is pickled by
itself, so that one that cannot be does not cost the others. One whose own pickle does not give it back (a
common fault: an ``__init__`` that wants other arguments than ``args``) is made again from class, ``args`` and
attributes without calling ``__init__``; where that fails too it becomes a `RemoteTaskError`.
"""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Iterator
from types import BuiltinFunctionType, TracebackType, WrapperDescriptorType
from typing import Any, NamedTuple

from tblib import Traceback as PortableTraceback

from cascade_dist.codec.pickling import PROTOCOL, dump, type_name
from cascade_dist.codec.preview import preview
from cascade_dist.errors import RemoteTaskError, RemoteTraceback

__all__ = ["ErrorRecord", "decode_exception", "encode_exception"]

PICKLED_BYTES_MAX = 768 << 10
MESSAGE_CHARS_MAX = 8_192
TRACEBACK_CHARS_MAX = 65_536
_FRAMES_MAX = 100
_CHAIN_MAX = 64
_PARTS_MAX = 20
_PART_BYTES_MAX = 32_768
_OWN_MODULES = ("cascade_worker", "cascade_dist")
_READ_ONLY_HINT = "large arguments are mapped read-only: take a .copy() before writing to them"

_Frame = tuple[str, str, str, int]
"""File, module, function, line."""


class ErrorRecord(NamedTuple):
    """What a task raised."""

    type: str
    """The exception's type as users read it."""
    message: str
    """str(exception), bounded."""
    traceback: str
    """The traceback as text, bounded; frames of the executor itself are left out."""
    pickled: bytes
    """Empty when it is too large."""


class _Portable(NamedTuple):
    """One exception of a chain; others are named by their place in it, -1 for none."""

    type: str
    message: str
    pickled: bytes
    """The exception by its own pickle; else empty."""
    parts: bytes
    """(class, args, attributes), when its own pickle does not give it back; else empty."""
    frames: tuple[_Frame, ...]
    cause: int
    context: int
    suppress_context: bool
    notes: tuple[str, ...]
    members: tuple[int, ...]


def encode_exception(exc: BaseException) -> ErrorRecord:
    """What is known of an exception, bounded. Never raises for the exception's sake."""
    _hint(exc)
    kind = type(exc).__name__
    message = _message(exc)
    try:
        text = _traceback_text(exc)
    except Exception:
        text = f"{kind}: {message}\n"
    return ErrorRecord(kind, message, text, _pickle(exc))


def decode_exception(record: ErrorRecord) -> BaseException:
    """The exception of a record, ready to be raised; a `RemoteTaskError` where it cannot be had.

    It has its traceback, and the remote one as text (`RemoteTraceback`) at the end of its chain of causes.
    """
    exc: BaseException | None = None
    if record.pickled:
        try:
            exc = _rebuild([_Portable(*fields) for fields in pickle.loads(record.pickled)])
        except Exception:
            exc = None
    if exc is None:
        exc = RemoteTaskError(f"{record.type}: {record.message}")
    if record.traceback:
        _root(exc).__cause__ = RemoteTraceback(record.traceback)
    return exc


# --- text -----------------------------------------------------------------------------------------


def _message(exc: BaseException) -> str:
    try:
        text = str(exc)
    except Exception as error:
        return f"<no message: its __str__ raised {type(error).__name__}>"
    return _bounded(text, MESSAGE_CHARS_MAX)


def _bounded(text: str, most: int) -> str:
    if len(text) <= most:
        return text
    note = f" … ({len(text):,} characters in all)"
    return text[: most - len(note)] + note


def _hint(exc: BaseException) -> None:
    if isinstance(exc, ValueError) and "read-only" in _message(exc) and not getattr(exc, "__notes__", None):
        exc.add_note(_READ_ONLY_HINT)


def _traceback_text(exc: BaseException) -> str:
    """The traceback as Python prints it, without our frames; a long one keeps its start and its end."""
    report = traceback.TracebackException(type(exc), exc, _user_part(exc.__traceback__), limit=-_FRAMES_MAX)
    text = "".join(report.format())
    if len(text) <= TRACEBACK_CHARS_MAX:
        return text
    half = TRACEBACK_CHARS_MAX // 2 - 50
    return f"{text[:half]}\n… ({len(text) - 2 * half:,} characters left out)\n{text[-half:]}"


def _user_part(tb: TracebackType | None) -> TracebackType | None:
    """The traceback from the first frame on that is not ours; all of it when every frame is."""
    first = tb
    while first is not None and _is_ours(first):
        first = first.tb_next
    return tb if first is None else first


def _is_ours(tb: TracebackType) -> bool:
    module = tb.tb_frame.f_globals.get("__name__", "")
    return isinstance(module, str) and module.partition(".")[0] in _OWN_MODULES


def _frames(exc: BaseException) -> tuple[_Frame, ...]:
    found = list(_walk(_user_part(exc.__traceback__)))
    if len(found) > _FRAMES_MAX:
        half = _FRAMES_MAX // 2
        found = found[:half] + found[-half:]
    return tuple(found)


def _walk(tb: TracebackType | None) -> Iterator[_Frame]:
    while tb is not None:
        code = tb.tb_frame.f_code
        module = tb.tb_frame.f_globals.get("__name__", "?")
        yield code.co_filename, str(module), code.co_name, tb.tb_lineno
        tb = tb.tb_next


# --- pickling -------------------------------------------------------------------------------------


def _pickle(exc: BaseException) -> bytes:
    """The chain as bytes; its least important parts go first when it is too large."""
    for most in (_CHAIN_MAX, 1):
        try:
            chain = _chain(exc, most)
            places = {id(link): place for place, link in enumerate(chain)}
            data = pickle.dumps([tuple(_portable(link, places)) for link in chain], PROTOCOL)
        except Exception:
            continue
        if len(data) <= PICKLED_BYTES_MAX:
            return data
    return b""


def _chain(exc: BaseException, most: int) -> list[BaseException]:
    """The exception and all that hang together with it, each once."""
    chain: list[BaseException] = [exc]
    seen = {id(exc)}
    for link in chain:
        near = [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            near += link.exceptions
        for other in near:
            if other is not None and id(other) not in seen and len(chain) < most:
                seen.add(id(other))
                chain.append(other)
    return chain


def _portable(exc: BaseException, places: dict[int, int]) -> _Portable:
    members: tuple[int, ...] = ()
    if isinstance(exc, BaseExceptionGroup):
        members = tuple(places[id(member)] for member in exc.exceptions if id(member) in places)
        pickled, parts = b"", _parts(exc, (exc.message,))
    else:
        pickled = _own_pickle(exc)
        parts = b"" if pickled else _parts(exc, exc.args)
    notes = tuple(str(note)[:MESSAGE_CHARS_MAX] for note in list(getattr(exc, "__notes__", ()))[:20])
    return _Portable(
        type_name(exc),
        _message(exc),
        pickled,
        parts,
        _frames(exc),
        places.get(id(exc.__cause__), -1),
        places.get(id(exc.__context__), -1),
        exc.__suppress_context__,
        notes,
        members,
    )


def _own_pickle(exc: BaseException) -> bytes:
    """The exception by its own way of being pickled, when that gives it back as it was; else nothing."""
    try:
        data = dump(exc, out_of_band=False).pickled()
        copy = pickle.loads(data)
        if len(data) <= PICKLED_BYTES_MAX and type(copy) is type(exc) and str(copy) == str(exc):
            return data
    except Exception:
        pass
    return b""


def _parts(exc: BaseException, args: tuple[Any, ...]) -> bytes:
    """What the exception is made of, with text for what cannot be pickled; nothing when its class cannot."""
    if not isinstance(type(exc).__new__, BuiltinFunctionType):
        return b""  # who knows what else it keeps
    try:
        kept = tuple(arg if _fits(arg) else _as_text(arg) for arg in args[:_PARTS_MAX])
        state = {name: value for name, value in vars(exc).items() if name != "__notes__" and _fits(value)}
        return dump((type(exc), kept, state), out_of_band=False).pickled()
    except Exception:
        return b""


def _fits(value: object) -> bool:
    """Whether an argument or attribute can come along."""
    try:
        data = dump(value, out_of_band=False).pickled()
        pickle.loads(data)
    except Exception:
        return False
    return len(data) <= _PART_BYTES_MAX


def _as_text(value: object) -> str:
    return _bounded(value, MESSAGE_CHARS_MAX) if type(value) is str else preview(value)


# --- and back -------------------------------------------------------------------------------------


def _rebuild(chain: list[_Portable]) -> BaseException:
    built: list[BaseException] = [None] * len(chain)  # type: ignore[list-item]
    for place in reversed(range(len(chain))):  # members of a group come behind it
        built[place] = _rebuild_one(chain[place], built)
    for exc, portable in zip(built, chain, strict=True):
        exc.__cause__ = built[portable.cause] if portable.cause >= 0 else None
        exc.__context__ = built[portable.context] if portable.context >= 0 else None
        exc.__suppress_context__ = portable.suppress_context
        exc.__traceback__ = _traceback(portable.frames)
        if portable.notes:
            exc.__notes__ = list(portable.notes)
    return built[0]


def _rebuild_one(portable: _Portable, built: list[BaseException]) -> BaseException:
    try:
        if portable.pickled:
            found = pickle.loads(portable.pickled)
            if isinstance(found, BaseException):
                return found
        if portable.parts:
            kind, args, state = pickle.loads(portable.parts)
            members = [built[place] for place in portable.members]
            exc = _group(kind, args[0], members) if members else _bare(kind, args)
            vars(exc).update(state)
            return exc
    except Exception:
        pass
    return RemoteTaskError(f"{portable.type}: {portable.message}")


def _bare(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    exc = kind.__new__(kind, *args)
    for base in kind.__mro__:
        init = base.__dict__.get("__init__")
        if isinstance(init, WrapperDescriptorType):  # the first one that is not the user's
            init(exc, *args)
            break
    exc.args = args
    return exc


def _group(kind: Any, message: str, members: list[BaseException]) -> BaseException:
    try:
        made = kind.__new__(kind, message, members)
    except TypeError:
        made = BaseExceptionGroup(message, members)
    assert isinstance(made, BaseException)
    return made


class _Namespace:
    """The shape in which tblib takes code and frames."""

    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


def _traceback(frames: tuple[_Frame, ...]) -> TracebackType | None:
    """A traceback whose frames show these files and lines."""
    node: Any = None
    for filename, module, name, line in reversed(frames):
        code = _Namespace(co_filename=filename, co_name=name)
        scope = {"__file__": filename, "__name__": module}
        frame = _Namespace(f_code=code, f_globals=scope, f_locals={}, f_lineno=line)
        node = _Namespace(tb_frame=frame, tb_lineno=line, tb_next=node)
    if node is None:
        return None
    made = PortableTraceback(node).as_traceback()
    assert made is None or isinstance(made, TracebackType)
    return made


def _root(exc: BaseException) -> BaseException:
    """The end of what Python prints for an exception: the first cause or context."""
    seen = {id(exc)}
    while True:
        before = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
        if before is None or id(before) in seen:
            return exc
        seen.add(id(before))
        exc = before
