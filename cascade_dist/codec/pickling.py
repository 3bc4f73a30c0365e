"""What the codec modules share: dumping with buffers out of band, and saying what cannot be pickled."""

from __future__ import annotations

import io
import pickle
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cloudpickle

from cascade_dist.codec.preview import preview, qualified_name
from cascade_dist.errors import SerializationError

__all__ = [
    "PROTOCOL",
    "Dump",
    "Sink",
    "buffer_keeper",
    "culprit",
    "dump",
    "load_with_inputs",
    "remedy",
    "type_name",
]

PROTOCOL = 5
OUT_OF_BAND_MIN = 4096
"""Buffers below this many bytes stay in the pickle: a copy costs less than a view."""

_PROBES_MAX = 2_000
_PATH_DEPTH_MAX = 8


class Sink:
    """A file for picklers that keeps what is written as it comes; large bytes objects are not copied."""

    __slots__ = ("pieces", "write")

    def __init__(self) -> None:
        self.pieces: list[Any] = []
        self.write = self.pieces.append


class Dump:
    """A pickle in pieces, and the buffers that it refers to."""

    __slots__ = ("buffers", "pieces", "size")

    def __init__(self, pieces: list[Any], buffers: list[memoryview]) -> None:
        self.pieces = pieces
        self.buffers = buffers
        self.size = sum(map(_length, pieces))
        """Bytes of the pickle alone."""

    @property
    def total(self) -> int:
        """Bytes of the pickle and the buffers."""
        return self.size + sum(view.nbytes for view in self.buffers)

    def pickled(self) -> bytes:
        """The pickle in one piece."""
        return self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)


def _length(piece: Any) -> int:
    return len(piece) if type(piece) is bytes else memoryview(piece).nbytes


def buffer_keeper(kept: list[memoryview]) -> Callable[[pickle.PickleBuffer], bool]:
    """A buffer callback that keeps large buffers out of the pickle."""

    def keep(buffer: pickle.PickleBuffer) -> bool:
        try:
            view = buffer.raw()
        except BufferError:  # not contiguous
            return True
        if view.nbytes < OUT_OF_BAND_MIN:
            return True
        kept.append(view)
        return False

    return keep


def dump(value: object, *, out_of_band: bool) -> Dump:
    """Pickles a value; by cloudpickle when plain pickle cannot.

    For values made by tasks: what is not importable there was made by value, and pickle fails on it. (On a
    client plain pickle would take a class of ``__main__`` by a name that means nothing on a worker.)

    Raises:
        SerializationError: there is a lazy value in it, which refuses.
        Exception: whatever pickling raised.
    """
    try:
        return _dump(pickle.Pickler, value, out_of_band)
    except (SerializationError, RecursionError, MemoryError):
        raise
    except Exception:
        return _dump(cloudpickle.Pickler, value, out_of_band)


def _dump(maker: Any, value: object, out_of_band: bool) -> Dump:
    sink = Sink()
    buffers: list[memoryview] = []
    maker(sink, PROTOCOL, buffer_callback=buffer_keeper(buffers) if out_of_band else None).dump(value)
    return Dump(sink.pieces, buffers)


def type_name(value: object) -> str:
    """A value's type as users read it."""
    return qualified_name(type(value))


def culprit(value: object, probe: Callable[[object], object]) -> tuple[str, object, Exception | None]:
    """Where in a value the part is that a probe raises on: path such as ``[3]['model'].lock``, part, error.

    Looks into containers and attributes of instances; bounded in probes and depth, so the path may end early.
    """
    path, part, failure = "", value, _failure(probe, value)
    probes = _PROBES_MAX
    for _ in range(_PATH_DEPTH_MAX):
        for step, child in _children(part):
            probes -= 1
            error = _failure(probe, child) if probes >= 0 else None
            if error is not None:
                path, part, failure = path + step, child, error
                break
        else:
            break
    return path, part, failure


def _failure(probe: Callable[[object], object], value: object) -> Exception | None:
    try:
        probe(value)
    except Exception as error:
        return error
    return None


def _children(value: object) -> Iterator[tuple[str, object]]:
    kind = type(value)
    if isinstance(value, dict):
        yield from ((f"[{preview(key)[:40]}]", child) for key, child in list(value.items()))
    elif isinstance(value, list | tuple):
        yield from ((f"[{index}]", child) for index, child in enumerate(value))
    elif isinstance(value, set | frozenset):
        yield from (("{…}", child) for child in value)
    elif (
        not isinstance(value, type | types.ModuleType | types.FunctionType)
        and "__reduce__" not in kind.__dict__
    ):
        state = getattr(value, "__dict__", None)
        if isinstance(state, Mapping):
            yield from ((f".{name}", child) for name, child in list(state.items()))


_REMEDIES: tuple[tuple[tuple[str, ...], str], ...] = (
    (("lock", "rlock", "condition", "semaphore", "event", "thread", "_local"), "make it inside the task"),
    (("generator", "iterator", "map", "filter", "zip"), "make a list of it"),
    (("coroutine",), "await it first"),
    (
        ("textiowrapper", "bufferedreader", "bufferedwriter", "fileio"),
        "give the path and open it inside the task",
    ),
    (("socket", "connection", "client", "session", "cursor", "engine"), "open it inside the task"),
    (("module",), "import it inside the task"),
    (("frame", "traceback"), "give its text"),
)


def remedy(part: object, error: BaseException | None) -> str:
    """What to do about a part that cannot be pickled."""
    if isinstance(error, RecursionError) or "recursion" in str(error).lower():
        return "it is nested too deeply for pickle; flatten it"
    name = type(part).__name__.lower()
    for names, text in _REMEDIES:
        if any(name == word or name.endswith(word) for word in names):
            return text
    return "give what it is made from and make it inside the task, or write `__reduce__` for its type"


def load_with_inputs(data: Any, inputs: Sequence[object], buffers: Any = None) -> Any:
    """Unpickles; persistent ids stand for inputs."""
    unpickler = InputUnpickler(io.BytesIO(data), buffers=buffers)
    unpickler.inputs = inputs
    return unpickler.load()


class InputUnpickler(pickle.Unpickler):
    """Resolves persistent ids to the inputs of a node."""

    inputs: Sequence[object] = ()

    def persistent_load(self, pid: Any) -> Any:
        """The input with this ordinal."""
        if type(pid) is int and 0 <= pid < len(self.inputs):
            return self.inputs[pid]
        raise pickle.UnpicklingError(
            f"the payload refers to input {pid!r:.40}, but there are {len(self.inputs)} inputs"
        )
