"""What a command line says about a target."""

from __future__ import annotations

from cascade_dist.errors import ConfigError
from cascade_dist.library.targets import load_target

__all__ = ["load_target", "parse_params"]


def parse_params(texts: list[str]) -> dict[str, str]:
    """Params from ``name=value`` texts; `Param` converts the values.

    Raises:
        ConfigError: a text has no ``=``, or a name comes twice.
    """
    params: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"-p {text!r} is no param; write -p name=value")
        if name.strip() in params:
            raise ConfigError(f"param {name.strip()!r} is given twice; give it once")
        params[name.strip()] = value
    return params
