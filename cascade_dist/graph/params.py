"""The values of `Param` and `Env` in one compilation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from cascade_dist.errors import GraphError, ParamMissingError
from cascade_dist.graph.encoding import Encoder, digest_of
from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.resources import Inject, Slot
from cascade_dist.language.warn import warn_user

__all__ = ["Inputs", "Withheld"]


class Withheld:
    """In the place of a param that does not travel to workers.

    Attributes:
        reason: why, for people.
    """

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __reduce__(self) -> tuple[type[Withheld], tuple[str]]:
        return Withheld, (self.reason,)


class Inputs:
    """Resolves inputs, and remembers which are missing and which names are known.

    Args:
        params: values given to the run, by name.
        strict: whether a name that no `Param` has is an error.
        require: whether it is an error when a required one is missing.
        warn: whether there is a warning for a name that no `Param` has.
    """

    def __init__(
        self, params: Mapping[str, Any], *, strict: bool = False, require: bool = True, warn: bool = True
    ) -> None:
        if not isinstance(params, Mapping):
            raise TypeError(f"params is {params!r}: give a dict of values by name")
        self._params = dict(params)
        self._strict = strict
        self._require = require
        self._warn = warn
        self._known: dict[str, Param] = {}
        self._missing: dict[str, None] = {}

    @property
    def known(self) -> list[Param]:
        """The params that were met, in the order of the walk; of several with one name the first."""
        return list(self._known.values())

    def lacks(self, wanted: Param | Env) -> bool:
        """Whether an input has neither value nor default, which `finish` will say."""
        self.resolve(wanted)
        given = os.environ if isinstance(wanted, Env) else self._params
        return wanted.required and wanted.name not in given

    def resolve(self, wanted: Param | Env | Inject) -> Any:
        """The value; None in place of one that is missing, which `finish` will say. Of a marker its slot.

        Raises:
            ValueError: a value cannot be converted.
            GraphError: on a worker, the value did not travel along.
        """
        name = wanted.name
        if isinstance(wanted, Inject):
            return Slot(name)
        if isinstance(wanted, Env):
            value = os.environ.get(name, wanted.default)
            if name not in os.environ and wanted.required:
                self._missing[f"environment variable {name!r}"] = None
                return None
            return value
        self._known.setdefault(name, wanted)
        if name in self._params:
            value = self._params[name]
            if isinstance(value, Withheld):
                raise GraphError(
                    f"param {name!r} is not known on workers, because it {value.reason}: pass the value on "
                    "as an argument"
                )
            return wanted.convert(value)
        if wanted.required:
            self._missing[f"param {name!r}"] = None
            return None
        return wanted.convert(wanted.default)

    def finish(self) -> None:
        """Says what was missing and what was not known, when the whole graph has been walked.

        Raises:
            ParamMissingError: inputs without a value and default; names all of them.
            GraphError: unknown params, when strict.
        """
        if self._missing and self._require:
            raise ParamMissingError(
                f"no value and no default for {', '.join(self._missing)}: give params by "
                "run(…, params={…}), set environment variables, or give a default"
            )
        unknown = [name for name in self._params if name not in self._known]
        if not unknown:
            return
        known = ", ".join(map(repr, sorted(self._known))) or "none"
        text = f"no Param is named {', '.join(map(repr, unknown))}; the target knows {known}"
        if self._strict:
            raise GraphError(f"{text} (strict_params)")
        if self._warn:
            warn_user(text)

    def digest(self, encoder: Encoder) -> bytes:
        """16 bytes over the given params, whatever their order."""
        return digest_of(
            *(b"".join(map(bytes, map(_first, map(encoder.piece, pair)))) for pair in self._sorted())
        )

    def _sorted(self) -> list[tuple[str, Any]]:
        return sorted(self._params.items())


def _first(pair: tuple[bytes, list[Any]]) -> bytes:
    return pair[0]
