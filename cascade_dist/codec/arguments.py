"""The arguments of a node: one pickle of ``(args, kwargs)``.

A lazy value in it is a persistent id: the ordinal of that value among the node's inputs (its data and items
edges in order, then its blob inputs). No arguments at all are no bytes.

Of a map over lazy lists every child gets the same payload; a literal list that is mapped over stands in it
as a `Column`, of which the child takes the item with its own index.
"""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from cascade_dist.codec.graph_pickler import ByValuePickler, GraphPickler
from cascade_dist.codec.opcodes import simple_arguments, simple_list
from cascade_dist.codec.pickling import PROTOCOL, Dump, culprit, remedy, type_name
from cascade_dist.codec.values import INLINE_BYTES_MAX, Packed, load, pack, pack_column
from cascade_dist.errors import ArgumentSerializationError, TaskLoadError
from cascade_dist.graph.model import Node, NodeKind
from cascade_dist.language.lazy import LazyResult
from cascade_dist.language.stored import Stored

__all__ = ["FIRST", "SHARED_INLINE_MAX", "ArgumentEncoder", "Column", "load_arguments", "plain_payload"]

SHARED_INLINE_MAX = 1024
"""What the children of a map share is sent once, as a blob, when its pickle has more bytes than this."""

FIRST = ""
"""In overrides: the name of whatever parameter is the first."""

_TEXT_MAX = 1024
_CALL = NodeKind.CALL  # looking it up on its class every time takes longer than encoding a scalar
_PLAIN = frozenset({type(None), bool, int, float})
_TEXTS = frozenset({str, bytes})
_dumps = pickle.dumps


class Column:
    """A literal list that a map goes over beside lazy ones; a child of the map takes one item of it."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __reduce__(self) -> tuple[type[Column], tuple[Sequence[Any]]]:
        return Column, (self.items,)


class ArgumentEncoder:
    """Encodes the arguments of one submit's nodes. Not for use by several threads at once.

    Args:
        inline_max: most bytes of arguments that travel inline; larger ones are packed, for the blob store.
    """

    def __init__(self, inline_max: int = INLINE_BYTES_MAX) -> None:
        self._inline_max = inline_max
        self._plain: ByValuePickler | None = None
        self._graph: GraphPickler | None = None
        self._met: dict[int, Stored] = {}
        """Handles that the last dump met and that nothing stood for, by their ids."""
        # Both by id, of objects that are kept alive: the payload of a shared value, and the ids of the values
        # of a map that have one.
        self._payloads: dict[int, tuple[object, Packed | None]] = {}
        self._keys: dict[int, tuple[object, tuple[int, ...]]] = {}
        self.handles: list[Stored] = []
        """Handles of stored objects among the arguments of the call that was encoded last, each once. They
        are the last of its blob inputs."""

    def encode(self, node: Node) -> bytes | Packed:
        """The payload of a node's arguments; of a gather, the payload of its container.

        Raises:
            ArgumentSerializationError: names task, argument, place in it, type and remedy.
        """
        kind = node.spec.kind
        if self.handles:
            self.handles = []
        if kind is _CALL:
            args, kwargs = node.args, node.kwargs
            if not (args or kwargs):
                return b""
            ordinals = self._ordinals(node)
            if ordinals:
                quick = simple_arguments(args, kwargs, ordinals)
                if quick is not None and len(quick) <= self._inline_max:
                    return quick
            else:
                data = plain_payload(args, kwargs)
                if data is not None and len(data) <= self._inline_max:
                    return data
            return self._dump_call(node, (args, dict(kwargs)), ordinals)
        if kind is NodeKind.GATHER:
            ordinals = self._ordinals(node)
            if type(node.value) is list:
                quick = simple_list(node.value, ordinals)
                if quick is not None and len(quick) <= self._inline_max:
                    return quick
            return self._dump(node, node.value, ordinals)
        if kind is NodeKind.MAP:
            columns = {name: Column(node.kwargs[name]) for name in node.columns}
            return self._dump_call(node, (node.args, {**node.kwargs, **columns}), self._ordinals(node))
        if kind is NodeKind.LITERAL:
            return self._dump(node, node.value, {})
        if kind is NodeKind.ROUTER:
            return self._encode_keys(node)
        return b""

    def _encode_keys(self, node: Node) -> bytes:
        """A router's keys. They go inline to every worker that looks for its value among them."""
        keys = self._dump(node, node.value, {})
        if isinstance(keys, Packed):
            raise ArgumentSerializationError(
                f"the keys of a Router take {keys.size:,} bytes, and the most is {self._inline_max:,}: let a "
                "task make a short key of what selects"
            )
        return keys

    def blob_inputs(self, node: Node) -> tuple[Packed, ...]:
        """The payloads of the inputs that follow the node's own: values that many nodes share."""
        found = (self._payloads[key][1] for key in self._shared_keys(node))
        return tuple(packed for packed in found if packed is not None)

    def _ordinals(self, node: Node) -> dict[int, int]:
        """By the id of an object, the persistent id that stands for it in the node's payload."""
        inputs = node.inputs
        ordinals = dict(zip(map(id, inputs), range(len(inputs)), strict=True)) if inputs else {}
        if node.shared or node.columns:
            for ordinal, key in enumerate(self._shared_keys(node), len(inputs)):
                ordinals[key] = ordinal
        return ordinals

    def _shared_keys(self, node: Node) -> tuple[int, ...]:
        """The ids of the values that are blob inputs: the shared ones, then the columns of a map."""
        owner: object = node if node.columns else node.shared
        known = self._keys.get(id(owner))
        if known is None:
            values = {**node.shared, **{name: node.kwargs[name] for name in sorted(node.columns)}}
            keys = tuple(id(value) for name, value in values.items() if self._payload(node, name, value))
            known = self._keys[id(owner)] = (owner, keys)
        return known[1]

    def _payload(self, node: Node, name: str, value: Any) -> Packed | None:
        """The payload of a shared value; None when it goes with the rest: it is small, or holds lazies."""
        known = self._payloads.get(id(value))
        if known is None:
            known = self._payloads[id(value)] = (value, self._pack_shared(node, name, value))
        return known[1]

    def _pack_shared(self, node: Node, name: str, value: Any) -> Packed | None:
        if type(value) in _PLAIN:
            return None
        lazies = dict.fromkeys(map(id, node.inputs), 0)
        try:
            made = self._run(value, lazies, out_of_band=True)
            if (lazies and self._met_lazies()) or made.total <= SHARED_INLINE_MAX or self._met:
                return None
            return pack_column(value, self._run_plain) if name in node.columns else pack(made)
        except Exception as error:
            raise self._refusal(node, value, error, _argument_name(name), lazies) from error

    def _dump_call(self, node: Node, value: object, ordinals: dict[int, int]) -> bytes | Packed:
        """The payload of arguments, in which handles of stored objects are inputs like lazy values."""
        payload = self._dump(node, value, ordinals)
        if not self._met:
            return payload
        handles = self._met
        self.handles = list(dict.fromkeys(handles.values()))
        # What a map shares is an input before them, but of that an ordinal tells nothing when it is inline.
        first = len(node.inputs) + (len(self._shared_keys(node)) if node.shared or node.columns else 0)
        at = {handle: first + number for number, handle in enumerate(self.handles)}
        return self._dump(node, value, {**ordinals, **{key: at[each] for key, each in handles.items()}})

    def _dump(self, node: Node, value: object, ordinals: dict[int, int]) -> bytes | Packed:
        try:
            made = self._run(value, ordinals, out_of_band=True)
            if not made.buffers and made.size <= self._inline_max:
                return made.pickled()
            if made.total <= self._inline_max:
                plain = self._run(value, ordinals, out_of_band=False)
                if plain.size <= self._inline_max:
                    return plain.pickled()
            return pack(made)
        except Exception as error:
            raise self._explain(node, value, ordinals, error) from error

    def _run(self, value: object, ordinals: dict[int, int], *, out_of_band: bool) -> Dump:
        # A pickler in which something raised is not used again: it is put back only after its dump.
        if not ordinals:
            return self._run_plain(value, out_of_band)
        pickler = self._graph or GraphPickler()
        self._graph = None
        pickler.ordinals = ordinals
        pickler.met = False
        made = pickler.run(value, out_of_band=out_of_band)
        self._graph = pickler
        self._met = pickler.handles
        return made

    def _run_plain(self, value: object, out_of_band: bool) -> Dump:
        pickler = self._plain or ByValuePickler()
        self._plain = None
        made = pickler.run(value, out_of_band=out_of_band)
        self._plain = pickler
        self._met = pickler.handles
        return made

    def _met_lazies(self) -> bool:
        return self._graph is not None and self._graph.met

    def _explain(
        self, node: Node, value: Any, ordinals: dict[int, int], error: Exception
    ) -> ArgumentSerializationError:
        """Finds the argument that cannot be pickled."""
        if isinstance(error, ArgumentSerializationError):
            return error
        kind = node.spec.kind
        if kind is NodeKind.GATHER or kind is NodeKind.LITERAL:
            where = "the target" if node.name == node.spec.name else ""
            return self._refusal(node, value, error, where, ordinals)
        if kind is NodeKind.ROUTER:
            return self._refusal(node, value, error, "the tuple of its keys", ordinals)
        args, kwargs = value
        named = [(_parameter(node, i), arg) for i, arg in enumerate(args)] + list(kwargs.items())
        for name, arg in named:
            try:
                self._run(arg, ordinals, out_of_band=True)
            except Exception as found:
                part = arg.items if isinstance(arg, Column) else arg
                return self._refusal(node, part, found, _argument_name(name), ordinals)
        return self._refusal(node, value, error, "its arguments", ordinals)

    def _refusal(
        self, node: Node, value: object, error: Exception, where: str, ordinals: dict[int, int]
    ) -> ArgumentSerializationError:
        """The error for one argument, with the place in it where pickling stops."""
        path, part, found = culprit(value, lambda part: self._run(part, ordinals, out_of_band=True))
        reason = found or error
        at = f", at {path}" if path else ""
        what = f"task {node.name!r}: {where}" if where else node.name
        if isinstance(part, LazyResult):
            return ArgumentSerializationError(f"{what}{at}: {reason}")
        text = f"{what}{at} is a {type_name(part)} and cannot be pickled ({reason})"
        return ArgumentSerializationError(f"{text}: {remedy(part, reason)}")


def _parameter(node: Node, position: int) -> str:
    """The name of the parameter that a positional argument is for; its position where that is not known."""
    signature = getattr(node.spec.task, "signature", None)
    names = list(signature.parameters.values()) if signature is not None else []
    for parameter in names[: position + 1]:
        if parameter.kind is parameter.VAR_POSITIONAL:
            return str(position)
    return names[position].name if position < len(names) else str(position)


def _argument_name(name: str) -> str:
    return f"argument {name}" if name.isdigit() else f"argument {name!r}"


def plain_payload(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes | None:
    """The payload of arguments that are short scalars; None when some are not."""
    if not (args or kwargs):
        return b""
    if _all_plain(args) and (not kwargs or _all_plain(kwargs.values())):
        return _dumps((args, dict(kwargs)), PROTOCOL)
    return None


def _all_plain(values: Iterable[object]) -> bool:
    for value in values:
        kind = type(value)
        if kind not in _PLAIN and not (kind in _TEXTS and len(value) <= _TEXT_MAX):  # type: ignore[arg-type]
            return False
    return True


def load_arguments(
    payload: Any, inputs: Sequence[object] = (), index: int = -1
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of an attempt, on a worker.

    Args:
        payload: as encoded; empty for no arguments.
        inputs: the values of the node's inputs, in order.
        index: of a child of a map, its index; takes that item of every column.

    Raises:
        TaskLoadError: a module or attribute that the arguments need is not there; names it and the remedy.
        Exception: whatever unpickling raises.
    """
    if not len(payload):
        return (), {}
    try:
        args, kwargs = load(payload, inputs)
    except (ImportError, AttributeError) as error:
        raise TaskLoadError(
            f"the arguments could not be loaded: {error}. Install on the workers what the client has, or "
            "define it in the script that submits"
        ) from error
    if index >= 0:
        for name, value in kwargs.items():
            if type(value) is Column:
                kwargs[name] = value.items[index]
    return args, kwargs


def overridden(
    func: Callable[..., Any], made: tuple[tuple[Any, ...], dict[str, Any]], overrides: bytes
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments with others laid over them, by the name of the parameter.

    Args:
        func: what takes them.
        made: positional and keyword arguments.
        overrides: a pickled dict.

    Raises:
        TypeError: it has no such parameter.
    """
    args, kwargs = made
    given: dict[str, Any] = pickle.loads(overrides)
    signature = inspect.signature(func, follow_wrapped=False)
    names = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if FIRST in given:
        if not names:
            raise TypeError(f"it takes {signature}, so there is no first argument to replace")
        given[names[0]] = given.pop(FIRST)
    bound = signature.bind_partial(*args, **kwargs)
    others = {name: value for name, value in given.items() if name not in names}
    bound.arguments.update((name, value) for name, value in given.items() if name in names)
    # In the order of the parameters, or what follows a gap would be lost.
    bound.arguments = {
        name: bound.arguments[name] for name in signature.parameters if name in bound.arguments
    }
    return bound.args, {**bound.kwargs, **others}
