"""Where the jumps of a graph's nodes lead, and what a node that is jumped to needs for which parameter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from cascade_dist.errors import GraphError
from cascade_dist.graph.encoding import Encoder, Unencodable
from cascade_dist.graph.frames import Opener
from cascade_dist.graph.model import JumpEntry, JumpTable
from cascade_dist.graph.scan import Found, Scanner
from cascade_dist.language.lazy import UNSET, LazyResult

__all__ = ["ANY_NAME", "Jumps"]

ANY_NAME = "**"
"""The last of the names of a node that takes any other too."""

Index = Mapping[LazyResult[Any], int]


class Jumps:
    """The calls of one graph that are bound to selectors."""

    def __init__(self) -> None:
        self._bound: dict[LazyResult[Any], None] = {}

    def met(self, lazy: LazyResult[Any]) -> None:
        """A call of the graph is bound to a selector."""
        self._bound[lazy] = None

    def unwalked(self, index: Index) -> Iterator[LazyResult[Any]]:
        """Calls that are jumped to and are no nodes yet; more may come while these are walked."""
        done = 0
        while done < len(self._bound):
            for lazy in list(self._bound)[done:]:
                done += 1
                for route in self._routes(lazy).values():
                    if route is not None and route not in index:
                        yield route

    def _routes(self, lazy: LazyResult[Any]) -> dict[Any, LazyResult[Any] | None]:
        assert lazy.chain is not None
        assert lazy.chain.selector is not None
        return lazy.chain.selector.routes

    def tables(self, index: Index) -> list[JumpTable]:
        """Where jumps lead, by node."""
        made: dict[int, JumpTable] = {}
        for lazy in self._bound:
            routes = self._routes(lazy)
            targets = tuple(-1 if route is None else index[route] for route in routes.values())
            made.setdefault(index[lazy], JumpTable(index[lazy], tuple(routes), targets))
        return list(made.values())

    def entries(self, index: Index, opener: Opener, scanner: Scanner) -> list[JumpEntry]:
        """The nodes that are jumped to.

        Raises:
            GraphError: one is a stage that lets its first argument pass, which a jump may replace.
        """
        made: dict[int, JumpEntry] = {}
        for lazy in self._bound:
            for route in self._routes(lazy).values():
                if route is not None and index[route] not in made:
                    made[index[route]] = _entry(route, index[route], opener, scanner)
        return list(made.values())

    def write(self, index: Index, encoder: Encoder, out: bytearray) -> None:
        """Appends what stands for all of it."""
        for table in self.tables(index):
            encoder.write((table.node, table.targets), out)
            start = len(out)
            try:
                encoder.write(table.keys, out)
            except (Unencodable, RecursionError):
                del out[start:]


def _entry(lazy: LazyResult[Any], node: int, opener: Opener, scanner: Scanner) -> JumpEntry:
    task = lazy.task
    frame = opener.open(lazy)
    if lazy.chain is not None and lazy.chain.passed is not UNSET:
        raise GraphError(
            f"a jump leads to {lazy!r}, a stage that lets its first argument pass when it is skipped: jump "
            "to a call of its own, or take passthrough or the pipeline away"
        )
    ordinals = {found: ordinal for ordinal, found in enumerate(frame.found)}
    bound = task.bind(frame.args, frame.kwargs)
    if bound is None or task.signature is None:
        return JumpEntry(node, (), ((),) * len(ordinals))
    names: list[str] = []
    uses: list[list[int]] = [[] for _ in ordinals]

    def use(name: str, value: Any) -> None:
        found: Found = {}
        scanner.scan(value, name, found)
        for each in found:
            uses[ordinals[each]].append(len(names))
        names.append(name)

    anything = False
    for name, parameter in task.signature.parameters.items():
        value = bound.arguments.get(name)
        if parameter.kind is parameter.VAR_KEYWORD:
            anything = True
            for key, given in (value or {}).items():
                use(key, given)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            use(f"*{name}", value)
        else:
            use(name, value)
    if anything:
        names.append(ANY_NAME)
    return JumpEntry(node, tuple(names), tuple(map(tuple, uses)))
