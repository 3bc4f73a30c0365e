"""Value keys: what the value of a pure node depends on, and on nothing else.

A key covers the code and, by parameter, the content of literals, the keys of pure inputs, and the digests of
what impure inputs turn out to be. It does not cover policies, conditions or order: these change whether a
node runs, never its value. Where nothing upstream can change or skip what arrives, the key is known at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from typing import Any, NamedTuple

from cascade_dist.errors import GraphError
from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.content import ContentEncoder
from cascade_dist.graph.encoding import DIGEST_SIZE, Unencodable
from cascade_dist.graph.keys import key_of_parts
from cascade_dist.graph.model import EdgeKind, Node, NodeKind, TaskSpec
from cascade_dist.language.lazy import LazyResult

__all__ = ["Part", "ValueKey", "ValueKeys"]

_KNOWN = b"\xff"
_LATER = b"\xfe"


class Part(NamedTuple):
    """One part of a key.

    Attributes:
        name: "code", or the parameter's name.
        digest: 16 bytes; empty when they are only known at run time.
        input: the ordinal of the input that they then come from; else -1.
    """

    name: str
    digest: bytes
    input: int = -1


class ValueKey(NamedTuple):
    """What the value of a node depends on. `known`: nothing of it is left to run time."""

    node: int
    parts: tuple[Part, ...]
    known: bool


class _Writer(ContentEncoder):
    """Writes an argument; lazy results by their keys, or as something to come, in their order."""

    def __init__(self, hasher: CodeHasher) -> None:
        super().__init__(hasher)
        self.ordinals: Mapping[int, int] = {}
        """By the id of a lazy result: which input it is."""
        self.keys: list[bytes] = []
        """By input, its key; empty: it is not known yet."""
        self.later: dict[int, int] = {}
        """Inputs that were met and are not known yet: ordinal → how many were before it."""

    def lazy(self, value: LazyResult[Any], out: bytearray) -> None:
        ordinal = self.ordinals.get(id(value))
        if ordinal is None:
            raise Unencodable("a lazy result that is no input of it")
        key = self.keys[ordinal]
        if key:
            out += _KNOWN
            out += key
            return
        out += _LATER
        out += self.later.setdefault(ordinal, len(self.later)).to_bytes(4, "little")


class ValueKeys:
    """The value keys of one graph's nodes, which are taken in order."""

    def __init__(self) -> None:
        self._writer = _Writer(CodeHasher())
        self._clean: dict[int, bytes] = {}
        """Nodes whose value nothing can change or skip, with their keys."""
        self._later: dict[int, tuple[ValueKey, tuple[int, ...]]] = {}
        """Pure nodes whose keys are made at run time, with the sources that these need."""
        self._shared: dict[int, tuple[object, bytes]] = {}
        """Digests of values that many children share, by id; the values are kept."""

    def add(self, node: Node) -> list[ValueKey]:
        """Takes the next node; returns the keys that the scheduler has to be told of now.

        Raises:
            GraphError: its values are kept for the cluster, and something in its code has no hash.
        """
        kind = node.spec.kind
        if kind is NodeKind.CALL:
            return self._add_call(node) if node.spec.pure else []
        if kind is NodeKind.LITERAL:
            self._add_literal(node)
        elif kind is NodeKind.COLLECT:
            self._add_made(node, [Part("list", b"", at) for at in range(node.kinds.count(EdgeKind.DATA))])
        elif kind is NodeKind.GATHER:
            parts = self._parts_of("value", node.value, self._open(node))
            if parts is not None:
                self._add_made(node, [Part("container", b"\0" * DIGEST_SIZE), *parts])
        return []

    # --- calls --------------------------------------------------------------------------------------

    def _add_call(self, node: Node) -> list[ValueKey]:
        spec = node.spec
        parts = None if getattr(spec, "spawn", False) else self._call_parts(node)
        if parts is None:  # a node that spawns has the value of what it returns
            return []
        key = ValueKey(node.index, tuple(parts), all(part.digest for part in parts))
        plain = all(kind == EdgeKind.DATA for kind in node.kinds)
        if key.known:
            if plain:
                self._clean[node.index] = _made(parts)
        else:
            self._later[node.index] = (key, _sources(node, parts))
        if not spec.cluster_cache:
            return []
        # What passes its first input on when it is skipped may still need that.
        told = key._replace(known=key.known and (plain or not spec.passthrough))
        return [told, *self._needed(node, parts)]

    def _call_parts(self, node: Node) -> list[Part] | None:
        """The parts of a call's key; None when it has none."""
        spec = node.spec
        parts = [Part("code", spec.code_hash)]
        for resource in spec.resources:
            if not resource.code_hash:
                if spec.cluster_cache:
                    raise GraphError(
                        f"the values of task {spec.name!r} are kept for the cluster, but something in the "
                        f"code of resource {resource.name!r} cannot be hashed, so nobody can tell when they "
                        "go stale: make it inside the resource, or take cache='cluster' off"
                    )
                return None
            parts.append(Part(f"resource {resource.name}", resource.digest))
        keys = self._open(node)
        for name, value in _named(spec, node.args, node.kwargs):
            found = self._shared_parts(node, name, value) or self._parts_of(name, value, keys)
            if found is None:
                return None
            parts += found
        return parts

    def _open(self, node: Node) -> list[bytes]:
        """Gets ready to write a node's arguments; the keys of its inputs, as far as they are known."""
        sources = [
            source for source, kind in zip(node.sources, node.kinds, strict=True) if kind == EdgeKind.DATA
        ]
        self._writer.ordinals = {id(lazy): at for at, lazy in enumerate(node.inputs)}
        return [self._clean.get(source, b"") for source in sources]

    def _parts_of(self, name: str, value: Any, keys: list[bytes]) -> list[Part] | None:
        """What an argument adds to the key: its content, and each input in it that is not known yet."""
        writer, out = self._writer, bytearray()
        writer.keys, writer.later = keys, {}
        try:
            writer.write(value, out)
        except (Unencodable, RecursionError):
            return None
        content = Part(name, blake2b(out, digest_size=DIGEST_SIZE).digest())
        return [content, *(Part(name, b"", ordinal) for ordinal in writer.later)]

    def _shared_parts(self, node: Node, name: str, value: Any) -> list[Part] | None:
        """The same for a value that all children of a map share, written once; None for others."""
        if node.inputs or name not in node.shared or node.shared[name] is not value:
            return None
        known = self._shared.get(id(value))
        if known is None:
            parts = self._parts_of(name, value, [])
            if parts is None:
                return None
            known = self._shared[id(value)] = (value, parts[0].digest)
        return [Part(name, known[1])]

    # --- structural nodes ---------------------------------------------------------------------------

    def _add_literal(self, node: Node) -> None:
        parts = self._parts_of("literal", node.value, [])
        if parts is not None and len(parts) == 1:
            self._clean[node.index] = _made(parts)

    def _add_made(self, node: Node, parts: list[Part]) -> None:
        """A node that is made of its inputs."""
        if any(kind != EdgeKind.DATA for kind in node.kinds):
            return
        keys = [self._clean.get(source, b"") for source in node.sources]
        parts = [part if part.digest else part._replace(digest=keys[part.input]) for part in parts]
        parts = [part._replace(input=-1) if part.digest else part for part in parts]
        if all(part.digest for part in parts):
            self._clean[node.index] = _made(parts)
        else:
            key = ValueKey(node.index, tuple(parts), False)
            self._later[node.index] = (key, _sources(node, parts))

    # --- what a key that is made at run time needs ---------------------------------------------------

    def _needed(self, node: Node, parts: list[Part]) -> list[ValueKey]:
        """The keys of pure nodes upstream that the key needs and that were not told of before."""
        found: list[ValueKey] = []
        todo = list(_sources(node, parts))
        self._later.pop(node.index, None)
        while todo:
            entry = self._later.pop(todo.pop(), None)
            if entry is not None:
                found.append(entry[0])
                todo.extend(entry[1])
        return found


def _made(parts: Iterable[Part]) -> bytes:
    return key_of_parts((part.name, part.digest) for part in parts)


def _sources(node: Node, parts: Iterable[Part]) -> tuple[int, ...]:
    """The sources that stand behind the inputs in some parts."""
    data = [source for source, kind in zip(node.sources, node.kinds, strict=True) if kind == EdgeKind.DATA]
    return tuple(data[part.input] for part in parts if part.input >= 0)


def _named(spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Arguments by the names of their parameters: f(1) and f(x=1) are one call."""
    bound = spec.task.bind(args, kwargs) if spec.task is not None else None
    if bound is None:
        return [*((str(position), value) for position, value in enumerate(args)), *sorted(kwargs.items())]
    return list(bound.arguments.items())
