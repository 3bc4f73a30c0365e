"""Values that are known when a graph is submitted: parameters of the run and environment variables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cascade_dist.language.policies import is_text

__all__ = ["REQUIRED", "Env", "Param"]


class _Required:
    """The default of an input that has none."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "REQUIRED"

    def __reduce__(self) -> str:
        return "REQUIRED"


REQUIRED: Final = _Required()

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


class _Input:
    """Has a name, and maybe a default."""

    __slots__ = ("default", "name")

    name: str
    default: Any

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __bool__(self) -> bool:
        raise TypeError(
            f"{self!r} has no value before the graph is submitted, so it cannot decide anything here"
        )

    @property
    def required(self) -> bool:
        """Whether it has to be given or set: there is no default."""
        return self.default is REQUIRED


class Param(_Input):
    """Stands for a parameter of the run, wherever an argument may stand.

    Args:
        name: the key in ``run(params={…})``.
        default: the value when the run gives none; without one the parameter is required.
        type: what the value is converted by, such as ``int``. Left out, values are taken as they are, and
            a command line gives them as str.
        description: one line for people.
    """

    __slots__ = ("description", "type")

    def __init__(
        self,
        name: str,
        default: Any = REQUIRED,
        type: Callable[[Any], Any] | None = None,
        description: str = "",
    ) -> None:
        if not is_text(name) or not name:
            raise TypeError(f"a Param is named {name!r}: a name is a str that is not empty")
        if type is not None and not callable(type):
            raise TypeError(f"Param {name!r} has type {type!r}: give something callable, such as int")
        self.name = name
        self.default = default
        self.type = type
        self.description = description

    def convert(self, value: Any) -> Any:
        """A given value (or the default) as the task gets it.

        Raises:
            ValueError: it cannot be converted; names the parameter.
        """
        wanted = self.type
        if wanted is None or type(value) is wanted or (value is None and self.default is None):
            return value
        try:
            if wanted is bool and isinstance(value, str):
                return _truth(value)
            return wanted(value)
        except Exception as error:
            name = getattr(wanted, "__name__", repr(wanted))
            raise ValueError(
                f"param {self.name!r} is {value!r}, which {name} does not take: {error}"
            ) from error


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ValueError("say true or false")


class Env(_Input):
    """Stands for an environment variable of the client, read at submit; always a str unless the default is.

    Args:
        name: the variable.
        default: the value when it is not set; without one it has to be set.
    """

    __slots__ = ()

    def __init__(self, name: str, default: Any = REQUIRED) -> None:
        if not is_text(name) or not name or "=" in name or "\0" in name:
            raise TypeError(f"an Env is named {name!r}: give the name of an environment variable")
        self.name = name
        self.default = default
