"""The resources that the calls of one graph have injected, with all that these need themselves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from marshal import dumps
from typing import Any, Final

from cascade_dist.errors import CycleError, GraphError
from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.encoding import VERSION, digest_of
from cascade_dist.graph.model import ResourceSpec, Scope, TaskSpec
from cascade_dist.language.resources import Inject, Resource, resolve
from cascade_dist.language.task import Task

__all__ = ["ResourceTable"]

_SCOPES: Final = {"task": Scope.TASK, "run": Scope.RUN, "worker": Scope.WORKER}


class ResourceTable:
    """The resources of one graph; of each name there is one."""

    def __init__(self, hasher: CodeHasher) -> None:
        self._hasher = hasher
        self._made: dict[str, tuple[Resource, tuple[ResourceSpec, ...]]] = {}
        """By name, the definition, and what has to be set up for it, itself last."""
        self._specs: dict[tuple[int, tuple[str, ...]], tuple[TaskSpec, TaskSpec]] = {}
        """By the identity of a spec, which is kept, and the names: the spec with the resources."""

    def spec(
        self,
        spec: TaskSpec,
        task: Task[Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        injected: Iterable[Inject],
    ) -> TaskSpec:
        """The spec of a call, or of a map's children, with the resources that it has injected.

        Args:
            spec: without them.
            task: the task, for the parameters that have a marker as their default.
            args: positional arguments that are given.
            kwargs: keyword arguments that are given.
            injected: the markers in these.

        Raises:
            ResourceNotFoundError: a name is not registered.
            CycleError: resources need each other.
            GraphError: a resource needs one that lives shorter, or two of them have one name.
        """
        by_default = [
            marker
            for name, position, marker in task.injections
            if name not in kwargs and not 0 <= position < len(args)
        ]
        markers = dict.fromkeys((*by_default, *injected))
        if not markers:
            return spec
        wanted_by = f"task {task.name!r}"
        needed = (made for marker in markers for made in self._closure(resolve(marker, wanted_by)))
        resources = tuple(dict.fromkeys(needed))
        key = (id(spec), tuple(made.name for made in resources))
        found = self._specs.get(key)
        if found is None:
            digest = digest_of(spec.digest, *(made.digest for made in resources))
            found = self._specs[key] = (spec, replace(spec, resources=resources, digest=digest))
        return found[1]

    def _closure(self, root: Resource) -> tuple[ResourceSpec, ...]:
        """What has to be set up for a resource, each after what it needs."""
        path = [root]
        while path:
            definition = path[-1]
            if self._known(definition):
                path.pop()
                continue
            by = f"resource {definition.name!r}"
            needs = [resolve(marker, by) for marker in definition.requires]
            missing = next((need for need in needs if not self._known(need)), None)
            if missing is None:
                self._made[definition.name] = (definition, self._make(definition, needs))
            elif any(other.name == missing.name for other in path):
                start = next(at for at, other in enumerate(path) if other.name == missing.name)
                names = [repr(other.name) for other in (*path[start:], missing)]
                raise CycleError(
                    f"these resources need each other: {' → '.join(names)} (each needs the next); "
                    "take one of the injections between them out"
                )
            else:
                path.append(missing)
        return self._made[root.name][1]

    def _known(self, definition: Resource) -> bool:
        known = self._made.get(definition.name)
        if known is None:
            return False
        other = known[0]
        if other is not definition and (other.func is not definition.func or other.scope != definition.scope):
            raise GraphError(
                f"two different resources are named {definition.name!r} in one graph: give one of them "
                "another name, or inject by name, so that the last definition counts"
            )
        return True

    def _make(self, definition: Resource, needs: list[Resource]) -> tuple[ResourceSpec, ...]:
        scope = _SCOPES[definition.scope]
        for need in needs:
            if _SCOPES[need.scope] < scope:
                raise GraphError(
                    f"resource {definition.name!r} of scope {definition.scope!r} needs {need.name!r} of "
                    f"scope {need.scope!r}, which would end before it: widen that scope, or narrow this one"
                )
        before = tuple(dict.fromkeys(made for need in needs for made in self._made[need.name][1]))
        code = self._hasher.hash(definition.func)
        made = ResourceSpec(
            name=definition.name,
            scope=scope,
            definition=definition,
            requires=tuple(need.name for need in needs),
            digest=digest_of(
                dumps((definition.name, int(scope)), VERSION),
                code.digest,
                *(self._made[need.name][1][-1].digest for need in needs),
            ),
            code_hash=b"" if code.reason else code.digest,
        )
        return (*before, made)
