"""Structural ids: who a node is, in every process that runs the same program, whatever the hash seed.

An id covers code, policies, literals by content, and the ids of what a node needs, of its condition and of
its predecessors. An impure node's id also covers how many nodes before it in the walk were otherwise equal to
it; equal pure nodes have one id, and are one node.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from hashlib import blake2b
from marshal import dumps
from typing import Any, Final

from cascade_dist.errors import GraphError
from cascade_dist.graph.code_hash import CodeHash, CodeHasher
from cascade_dist.graph.encoding import DIGEST_SIZE, SCALARS, VERSION, Encoder, Unencodable, digest_of
from cascade_dist.graph.model import Mode, NodeKind, RetryPolicy, TaskSpec
from cascade_dist.language.lazy import UNSET, Chain, LazyResult
from cascade_dist.language.policies import MICROS
from cascade_dist.language.task import Task

__all__ = ["ArgumentEncoder", "Identity", "Specs", "scalars_content"]

_PARTS: Final = {
    name: bytes([0x01 + number]) for number, name in enumerate("if after child gate again map more".split())
}
_LAZY: Final = b"\xff"
_CALL: Final = NodeKind.CALL
_UNPLACED: Final = b"\0" * DIGEST_SIZE


class ArgumentEncoder(Encoder):
    """Writes arguments, with ids for lazy results and hashes for code."""

    def __init__(self, hasher: CodeHasher, ids: bytearray, index: Mapping[LazyResult[Any], int]) -> None:
        super().__init__()
        self.strict = False
        self._hasher = hasher
        self._ids = ids
        self._index = index

    def reference(self, value: Any, out: bytearray) -> None:
        hashed = self._hasher.hash(value)
        if hashed.reason and self.strict:
            raise Unencodable(hashed.reason)
        out += hashed.digest

    def lazy(self, value: LazyResult[Any], out: bytearray) -> None:
        # One inside an object that is not looked into has no node; sending its arguments will say so.
        at = self._index.get(value, -1) * DIGEST_SIZE
        out += _LAZY
        out += self._ids[at : at + DIGEST_SIZE] if at >= 0 else _UNPLACED

    def unknown(self, value: Any, out: bytearray) -> None:
        if self.strict:
            kind = type(value)
            raise Unencodable(f"a {kind.__module__}.{kind.__qualname__}, whose content has no canonical form")
        super().unknown(value, out)


class Identity:
    """Gives the nodes of one graph their ids."""

    def __init__(self, hasher: CodeHasher, index: Mapping[LazyResult[Any], int]) -> None:
        self.ids = bytearray()
        """The ids of the nodes, end to end, by index."""
        self.encoder = ArgumentEncoder(hasher, self.ids, index)
        self._counts: dict[bytes, int] = {}

    def of(self, index: int) -> bytes:
        """The id of a node that has one."""
        return bytes(self.ids[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE])

    def content(
        self,
        spec: TaskSpec,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        condition: int,
        after: Iterable[int],
        more: Mapping[str, Any] | None = None,
    ) -> bytes:
        """16 bytes over all that a node is, without how often it occurs.

        Args:
            spec: its spec.
            args: positional arguments.
            kwargs: keyword arguments.
            condition: node index of its condition, or -1.
            after: node indices of its predecessors.
            more: what else was chained onto it, by name.

        Raises:
            GraphError: it is pure, and an argument has no canonical encoding.
        """
        plain = not kwargs and condition < 0 and not after and not more
        if plain and SCALARS.issuperset(map(type, args)):
            return scalars_content(spec, args)
        out = bytearray(spec.digest)
        self._write_arguments(spec, args, kwargs, out)
        if more:
            out += _PARTS["more"]
            self._write_arguments(spec, (), more, out)
        if condition >= 0:
            out += _PARTS["if"]
            out += self.of(condition)
        for predecessor in sorted(map(self.of, after)):
            out += _PARTS["after"]
            out += predecessor
        return blake2b(out, digest_size=DIGEST_SIZE).digest()

    def _write_arguments(
        self, spec: TaskSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], out: bytearray
    ) -> None:
        encoder = self.encoder
        encoder.strict = spec.pure
        where: str | int = 0
        try:
            if SCALARS.issuperset(map(type, args)):
                out += dumps(args, VERSION)
            else:
                out += dumps(len(args), VERSION)
                for where, value in enumerate(args):  # noqa: B007 - read when one raises
                    kind = type(value)
                    if kind is LazyResult:
                        encoder.lazy(value, out)
                    else:
                        self._write_argument(value, out)
            for where, value in kwargs.items():
                out += dumps(where, VERSION)
                self._write_argument(value, out)
        except Unencodable as error:
            raise GraphError(
                f"argument {_argument(spec, where)} of the pure task {spec.name!r} is or holds {error}, "
                "so equal calls cannot be told from different ones: pass plain values, arrays or "
                "dataclasses, or take pure off"
            ) from None

    def _write_argument(self, value: Any, out: bytearray) -> None:
        start = len(out)
        try:
            self.encoder.write(value, out)
        except RecursionError:
            if self.encoder.strict:
                raise Unencodable("something that holds itself or is nested too deeply") from None
            del out[start:]
            self.encoder.unknown(value, out)

    def occurrence(self, content: bytes) -> bytes:
        """The id of an impure node: its content, and how many before it have the same."""
        count = self._counts.get(content, 0)
        self._counts[content] = count + 1
        if not count:
            return content
        return blake2b(content + _PARTS["again"] + dumps(count, VERSION), digest_size=DIGEST_SIZE).digest()

    def structural(self, spec: TaskSpec, parts: Iterable[Any]) -> tuple[bytes, bool]:
        """16 bytes over a structural node, and whether what has the same bytes is equal.

        It may not be where a value has no canonical encoding.
        """
        for strict in (True, False):
            self.encoder.strict = strict
            out = bytearray(spec.digest)
            try:
                for part in parts:
                    self._write_argument(part, out)
            except Unencodable:
                continue
            return blake2b(out, digest_size=DIGEST_SIZE).digest(), strict
        raise AssertionError

    def mapped(self, content: bytes) -> bytes:
        """The content of a map, which is no call with the same arguments."""
        return digest_of(content, _PARTS["map"])

    def child(self, whole: bytes, position: int) -> bytes:
        """The id of a map's child."""
        return blake2b(whole + _PARTS["child"] + dumps(position, VERSION), digest_size=DIGEST_SIZE).digest()

    def gate(self, whole: bytes) -> bytes:
        """The id of a map's gate."""
        return digest_of(whole, _PARTS["gate"])


def scalars_content(spec: TaskSpec, args: tuple[Any, ...]) -> bytes:
    """16 bytes over a call whose arguments are positional scalars, with nothing chained onto it."""
    return blake2b(spec.digest + dumps(args, VERSION), digest_size=DIGEST_SIZE).digest()


def _argument(spec: TaskSpec, where: str | int) -> str:
    signature = None if isinstance(where, str) or spec.task is None else spec.task.signature
    names = list(signature.parameters) if signature is not None else []
    return repr(names[where]) if isinstance(where, int) and where < len(names) else repr(where)


_RECENT_MAX = 64
_recent: dict[Any, TaskSpec] = {}
"""Specs of earlier submits, by what they are made of; so a spec that has not changed is the same object."""


class Specs:
    """The specs of one graph: one object for each kind of node that differs from the others."""

    def __init__(self, hasher: CodeHasher) -> None:
        self._hasher = hasher
        self._calls: dict[Task[Any], TaskSpec] = {}
        self._maps: dict[Task[Any], TaskSpec] = {}
        self._chained: dict[Any, TaskSpec] = {}
        self._by_digest: dict[tuple[Task[Any], bytes], TaskSpec] = {}
        self._structural: dict[tuple[NodeKind, str], TaskSpec] = {}

    def of(
        self,
        task: Task[Any],
        chain: Chain | None,
        kind: NodeKind = _CALL,
        counted: Mapping[str, int] | None = None,
    ) -> TaskSpec:
        """The spec of a task's calls, or maps, with what was chained onto one.

        Args:
            task: the task.
            chain: what was chained.
            kind: call or map.
            counted: the amounts, where those of the chain are not all numbers.

        Raises:
            GraphError: the task is pure, and something in its code cannot be hashed.
        """
        plain = self._calls if kind is _CALL else self._maps
        spec = plain.get(task)
        if spec is None:
            spec = self._make(task, kind, task.retry, task.timeout, task.resources, 0, None)
            plain[task] = self._by_digest[task, spec.digest] = spec
        if chain is None or (
            chain.retry is None
            and chain.timeout is UNSET
            and chain.amounts is None
            and not chain.priority
            and chain.passed is UNSET
            and chain.cache is None
        ):
            return spec
        retry = chain.retry or task.retry
        timeout = task.timeout if chain.timeout is UNSET else chain.timeout
        held = chain.amounts if counted is None else counted
        amounts = task.resources if held is None else {**task.resources, **held}
        passes, cache = chain.passed is not UNSET, chain.cache
        # The policy by its identity: it need not be hashable, and its spec keeps it alive.
        key = (task, kind, retry, timeout, frozenset(amounts.items()), chain.priority, passes, id(cache))
        found = self._chained.get(key)
        if found is None:
            found = self._make(task, kind, retry, timeout, amounts, chain.priority, cache, passes)
            # What says the same in other words (cpu=1) is the same spec; policies may hide what they are.
            if cache is None:
                found = self._by_digest.setdefault((task, found.digest), found)
            self._chained[key] = found
        return found

    def structural(self, kind: NodeKind, name: str) -> TaskSpec:
        """The spec of a structural node."""
        spec = self._structural.get((kind, name))
        if spec is None:
            digest = digest_of(dumps((int(kind), name), VERSION))
            spec = self._structural[kind, name] = TaskSpec(kind, name, digest=digest)
        return spec

    def _make(
        self,
        task: Task[Any],
        kind: NodeKind,
        retry: RetryPolicy | None,
        timeout: float | None,
        amounts: Mapping[str, int],
        priority: int,
        cache: Any,
        passes: bool = False,
    ) -> TaskSpec:
        code = self._hasher.hash(task.func)
        if code.reason and task.pure:
            raise GraphError(
                f"task {task.name!r} is pure, which needs a hash of its code, but {code.reason}: "
                "pass that as an argument or make it inside the function, or take pure off"
            )
        if code.reason and getattr(cache, "by_content", False):
            raise GraphError(
                f"task {task.name!r} is cached by its code and inputs, but {code.reason}: pass that as an "
                "argument or make it inside the function, or use another caching policy"
            )
        key = (task, kind, code, timeout, tuple(amounts.items()), priority, passes)
        plain = retry is None and cache is None
        if plain and (known := _recent.get(key)) is not None:
            return known
        held = dict(amounts) if task.asynchronous else {"cpu": MICROS, **amounts}
        counted = tuple(sorted((name, micros) for name, micros in held.items() if micros))
        mode = Mode.COMPUTE if task.mode == "compute" else Mode.BLOCKING
        policies = (
            int(kind),
            task.name,
            task.asynchronous,
            int(mode),
            task.pure,
            task.durable,
            timeout,
            counted,
            priority,
            task.cache,
            *((True,) if passes else ()),
            *(("spawn",) if task.spawn else ()),
        )
        made = TaskSpec(
            kind=kind,
            name=task.name,
            func=task.func,
            task=task,
            asynchronous=task.asynchronous,
            mode=mode,
            pure=task.pure,
            durable=task.durable,
            spawn=task.spawn,
            timeout=timeout,
            retry=retry,
            amounts=counted,
            priority=priority,
            passthrough=passes,
            digest=digest_of(
                dumps(policies, VERSION),
                self._retry_digest(retry),
                self._cache_digest(task, cache),
                code.digest,
            ),
            code_hash=b"" if code.reason else code.digest,
            unhashable=code.reason,
            cache=cache,
            cluster_cache=task.cache == "cluster",
        )
        if plain:  # the code of its exception classes, or of its policy, would count too
            if len(_recent) >= _RECENT_MAX:
                _recent.clear()
            _recent[key] = made
        return made

    def _cache_digest(self, task: Task[Any], cache: Any) -> bytes:
        """What a caching policy is, by class and content."""
        if cache is None:
            return b""
        out = bytearray()
        encoder = ArgumentEncoder(self._hasher, bytearray(), {})
        encoder.strict = task.pure
        try:
            encoder.write(cache, out)
        except (Unencodable, RecursionError) as error:
            raise GraphError(
                f"the caching policy of task {task.name!r} is or holds {error}, so equal calls cannot be "
                "told from different ones: make it of plain values, or take pure off"
            ) from None
        return digest_of(out)

    def _retry_digest(self, retry: RetryPolicy | None) -> bytes:
        if retry is None:
            return b""
        numbers = (retry.max_attempts, retry.delay, retry.backoff, retry.jitter, retry.max_delay)
        classes: list[CodeHash] = [self._hasher.hash(kind) for kind in retry.on]
        return digest_of(dumps(numbers, VERSION), *(hashed.digest for hashed in classes))
