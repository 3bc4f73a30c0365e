"""Values as JSON: what JSON has as it is, the rest as objects with one tag, such as ``{"$tuple": [1, 2]}``.

Classes and functions are named by module and qualified name. What has no form of its own is pickled, and says
so; nothing is unpickled unless the reader asks for it.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import importlib
import math
import pickle
import types
from collections.abc import Callable, Mapping
from typing import Any, Final

from cascade_dist.codec.graph_pickler import ByValuePickler
from cascade_dist.codec.pickling import type_name
from cascade_dist.errors import GraphError
from cascade_dist.language.inputs import REQUIRED, Env, Param
from cascade_dist.language.lazy import LazyResult, Unmapped
from cascade_dist.language.resources import Inject, Resource
from cascade_dist.language.task import Task

__all__ = ["Reader", "Writer", "reference_of", "resolve"]

_PLAIN: Final = frozenset({types.NoneType, bool, int, str})
_PICKLE: Final = "$pickle"
_CODE: Final = (type, types.FunctionType, types.BuiltinFunctionType)


def reference_of(value: Any, what: str) -> str:
    """How code is named: ``module:qualified.name``.

    Args:
        value: a function or class.
        what: what it is, for messages.

    Raises:
        GraphError: it is not what stands in its module under its name; says why.
    """
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not (isinstance(module, str) and isinstance(name, str)):
        raise GraphError(
            f"{what} is a {type_name(value)}, which has no name of its own: make it a function at the top of "
            "a module"
        )
    kind = "a lambda" if name.endswith("<lambda>") else "local to a function" if "<locals>" in name else ""
    if kind:
        raise GraphError(
            f"{what} is {module}.{name}, which is {kind}, and JSON can only name what stands at the top of a "
            "module: define it there"
        )
    try:
        found = resolve(f"{module}:{name}", what)
    except GraphError:
        found = None
    if found is not value and not (isinstance(found, Task) and found.func is value):
        raise GraphError(
            f"{what} is {module}.{name}, but that name stands for something else there: define it at the "
            "top of its module, under its own name"
        )
    return f"{module}:{name}"


def resolve(reference: Any, what: str) -> Any:
    """What a name stands for; imports its module.

    Raises:
        GraphError: there is no such thing here.
    """
    if not isinstance(reference, str) or reference.count(":") != 1:
        raise GraphError(f"{what} is {reference!r}: a name is written module:name")
    module, _, path = reference.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        raise GraphError(f"{what} is {reference}, which is not here: {error}") from error
    return found


class Writer:
    """Turns values into what `json` can write.

    Args:
        node: gives the number of a lazy result.
    """

    def __init__(self, node: Callable[[LazyResult[Any]], int]) -> None:
        self._node = node

    def write(self, value: Any, what: str) -> Any:
        """One value.

        Args:
            value: the value.
            what: what it is, for messages.

        Raises:
            GraphError: it can neither be written nor pickled.
        """
        kind = type(value)
        if kind in _PLAIN:
            return value
        if kind is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if kind is list:
            return [self.write(item, what) for item in value]
        if kind is dict:
            return self._dict(value, what)
        if isinstance(value, LazyResult):
            return {"$node": self._node(value)}
        return self._tagged(value, what)

    def _dict(self, value: dict[Any, Any], what: str) -> Any:
        if all(type(key) is str and not key.startswith("$") for key in value):
            return {key: self.write(item, what) for key, item in value.items()}
        pairs = [[self.write(key, what), self.write(item, what)] for key, item in value.items()]
        return {"$dict": pairs}

    def _tagged(self, value: Any, what: str) -> Any:
        kind = type(value)
        if kind is tuple or kind is set or kind is frozenset:
            return {f"${kind.__name__}": [self.write(item, what) for item in value]}
        if kind is bytes:
            return {"$bytes": base64.b64encode(value).decode()}
        if kind is Param:
            return {"$param": self._param(value, what)}
        if kind is Env:
            default = {} if value.required else {"default": self.write(value.default, what)}
            return {"$env": {"name": value.name, **default}}
        if kind is Unmapped:
            return {"$unmapped": self.write(value.value, what)}
        if kind is Inject:
            given = {} if value.resource is None else {"function": reference_of(value.resource, what)}
            return {"$inject": {"name": value.name, **given}}
        try:
            return self._by_name(value, what)
        except GraphError:
            return self._pickled(value, what)

    def _param(self, value: Param, what: str) -> dict[str, Any]:
        fields: dict[str, Any] = {"name": value.name}
        if not value.required:
            fields["default"] = self.write(value.default, what)
        if value.type is not None:
            fields["type"] = reference_of(value.type, f"the type of {value!r}")
        if value.description:
            fields["description"] = value.description
        return fields

    def _by_name(self, value: Any, what: str) -> Any:
        """A value whose class or itself is named.

        Raises:
            GraphError: it has no such form.
        """
        kind = type(value)
        if isinstance(value, _CODE):
            return {"$name": reference_of(value, what)}
        reference = reference_of(kind, what)
        if isinstance(value, enum.Enum) and value.name in kind.__members__:
            return {"$enum": [reference, value.name]}
        if dataclasses.is_dataclass(value):
            fields = {
                field.name: self.write(getattr(value, field.name), what)
                for field in dataclasses.fields(value)
                if hasattr(value, field.name)
            }
            return {"$dataclass": [reference, fields]}
        if isinstance(value, tuple) and hasattr(kind, "_make"):
            return {"$namedtuple": [reference, [self.write(item, what) for item in value]]}
        raise GraphError(f"{what} is a {type_name(value)}")

    def _pickled(self, value: Any, what: str) -> Any:
        try:
            data = ByValuePickler().run(value).pickled()
        except Exception as error:
            raise GraphError(
                f"{what} is or holds a {type_name(value)}, which can neither be written as JSON nor pickled: "
                f"{error}"
            ) from error
        return {_PICKLE: base64.b64encode(data).decode(), "type": type_name(value)}


class Reader:
    """Turns what `json` has read into values.

    Args:
        node: gives the lazy result of a number.
        allow_pickle: whether pickles are loaded, which runs whatever code they say.
    """

    def __init__(self, node: Callable[[Any], LazyResult[Any]], *, allow_pickle: bool) -> None:
        self._node = node
        self._allow_pickle = allow_pickle
        self._readers: dict[str, Callable[[Any, str], Any]] = {
            "$node": lambda body, what: self._node(body),
            "$float": lambda body, what: float(body),
            "$bytes": lambda body, what: base64.b64decode(body, validate=True),
            "$tuple": lambda body, what: tuple(self._items(body, what)),
            "$set": lambda body, what: set(self._items(body, what)),
            "$frozenset": lambda body, what: frozenset(self._items(body, what)),
            "$dict": lambda body, what: {self.read(key, what): self.read(item, what) for key, item in body},
            "$param": self._param,
            "$env": lambda body, what: Env(
                body["name"], self.read(body["default"], what) if "default" in body else REQUIRED
            ),
            "$unmapped": lambda body, what: Unmapped(self.read(body, what)),
            "$inject": self._inject,
            "$name": resolve,
            "$enum": lambda body, what: self._class(body[0], enum.Enum, what)[body[1]],
            "$dataclass": self._dataclass,
            "$namedtuple": lambda body, what: self._class(body[0], tuple, what)._make(
                self._items(body[1], what)
            ),
            _PICKLE: self._pickle,
        }

    def read(self, written: Any, what: str) -> Any:
        """One value.

        Args:
            written: as `Writer.write` gave it.
            what: what it is, for messages.

        Raises:
            GraphError: it is not well formed, names what is not here, or is a pickle that is not allowed.
        """
        if isinstance(written, list):
            return self._items(written, what)
        if not isinstance(written, dict):
            return written
        tag = next(iter(written), "")
        if not tag.startswith("$"):
            return {key: self.read(item, what) for key, item in written.items()}
        reader = self._readers.get(tag)
        if reader is None:
            raise GraphError(f"{what} has the tag {tag!r}, which this version does not know")
        try:
            return reader(written if tag == _PICKLE else written[tag], what)
        except GraphError:
            raise
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise GraphError(f"{what} is not well formed ({tag}): {type(error).__name__}: {error}") from error

    def _items(self, written: Any, what: str) -> list[Any]:
        return [self.read(item, what) for item in written]

    def _param(self, body: Mapping[str, Any], what: str) -> Param:
        return Param(
            body["name"],
            self.read(body["default"], what) if "default" in body else REQUIRED,
            resolve(body["type"], what) if "type" in body else None,
            body.get("description", ""),
        )

    def _inject(self, body: Mapping[str, Any], what: str) -> Inject:
        found = resolve(body["function"], what) if "function" in body else None
        if found is not None and not isinstance(found, Resource):
            raise GraphError(f"{what} names {body['function']} as a resource, which it is not")
        return Inject(body["name"], found)

    def _class(self, reference: Any, base: type, what: str) -> Any:
        found = resolve(reference, what)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise GraphError(f"{what} names {reference} as a class, which it is not")
        return found

    def _dataclass(self, body: Any, what: str) -> Any:
        reference, written = body
        found: Any = self._class(reference, object, what)
        if not dataclasses.is_dataclass(found):
            raise GraphError(f"{what} names {reference} as a dataclass, which it is not")
        names = {field.name for field in dataclasses.fields(found)}
        made: Any = object.__new__(found)  # type: ignore[arg-type]  # not by its __init__, which may do other things than keep the fields
        for name, item in written.items():
            if name not in names:
                raise GraphError(f"{what} has a field {name!r}, which {reference} has not")
            object.__setattr__(made, name, self.read(item, what))
        return made

    def _pickle(self, written: Mapping[str, Any], what: str) -> Any:
        if not self._allow_pickle:
            raise GraphError(
                f"{what} is or holds a pickled {written.get('type', 'value')}, and loading a pickle runs "
                "whatever code it says: if you trust where the text is from, from_json(…, allow_pickle=True)"
            )
        try:
            return pickle.loads(base64.b64decode(written[_PICKLE], validate=True))
        except Exception as error:
            raise GraphError(f"{what} is a pickle that cannot be loaded here: {error}") from error
