"""What code is a user's own, and what comes with Python or an installed distribution."""

from __future__ import annotations

import functools
import sys
import sysconfig
from importlib import metadata
from typing import Any

__all__ = ["installed_name", "is_installed", "version_of"]

_installed: dict[str, str | None] = {}
"""By top-level package: its version if it is installed or of the standard library, else None."""


def installed_name(owner: Any) -> tuple[str, str, str] | None:
    """Module, qualified name and version of code that counts by these; None for a user's own."""
    module, name = getattr(owner, "__module__", None), getattr(owner, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    version = version_of(module)
    if version is None:
        return None
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    # A wrapper that borrowed its name, or something made inside a function, is not what the name says.
    return (module, name, version) if found is owner else None


def is_installed(module: str) -> bool:
    """Whether a module is of the standard library or an installed distribution."""
    return version_of(module) is not None


def version_of(module: str) -> str | None:
    """The version of what a module came with: a distribution, or Python. None for a user's own."""
    top = module.partition(".")[0]
    try:
        return _installed[top]
    except KeyError:
        found = sys.modules.get(top)
        if found is None and top not in sys.stdlib_module_names:
            return None
        version = _installed[top] = _find_version(top, found)
        return version


def _find_version(top: str, module: Any) -> str | None:
    if top == __name__.partition(".")[0]:
        return str(getattr(module, "__version__", ""))
    if top in ("__main__", "__mp_main__"):
        return None
    if top in sys.stdlib_module_names or top in sys.builtin_module_names:
        return f"python {sys.version_info.major}.{sys.version_info.minor}"
    places = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
    if not any(place.startswith(_prefixes()) for place in places if place):
        return None
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", ""))


@functools.cache
def _prefixes() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    found = {paths[name] for name in ("purelib", "platlib", "stdlib", "platstdlib") if name in paths}
    found.update(path for path in sys.path if path.rstrip("/").endswith(("site-packages", "dist-packages")))
    return tuple(sorted(f"{path.rstrip('/')}/" for path in found))
