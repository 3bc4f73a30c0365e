"""Versions, compared at every handshake."""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

from cascade_dist._version import __version__
from cascade_dist.v1 import client_pb2

__all__ = ["PROTOCOL_VERSION", "check_versions", "local_versions"]

PROTOCOL_VERSION = (1, 0)
"""Major and minor. Another major is refused; a higher minor only adds."""


def local_versions() -> client_pb2.Versions:
    """The versions of this process."""
    return client_pb2.Versions(
        protocol_major=PROTOCOL_VERSION[0],
        protocol_minor=PROTOCOL_VERSION[1],
        python=platform.python_version(),
        cascade=__version__,
        cloudpickle=_cloudpickle_version(),
    )


@cache
def _cloudpickle_version() -> str:
    return metadata.version("cloudpickle")


def check_versions(peer: client_pb2.Versions, who: str = "the other side") -> tuple[str | None, list[str]]:
    """Whether this process can work with another one.

    Args:
        peer: what the other one said of itself.
        who: how texts call it, such as ``the scheduler``.

    Returns:
        Why it cannot, with both versions and the remedy, or None; and what people should know besides.
    """
    own = local_versions()
    if peer.protocol_major != own.protocol_major:
        return (
            f"{who} speaks protocol {_protocol(peer)} (cascade-dist {peer.cascade or 'unknown'}), this "
            f"process {_protocol(own)} (cascade-dist {own.cascade}): install one version of it on both"
        ), []
    if _minor(peer.python) != _minor(own.python):
        return (
            f"{who} runs Python {peer.python or 'unknown'}, this process Python {own.python}: functions and "
            f"values travel as pickles, which need one minor version. Run both on {_minor(own.python)} or "
            f"both on {_minor(peer.python) or 'the other'}"
        ), []
    warnings = []
    for name, theirs, ours in (
        ("Python", peer.python, own.python),
        ("cascade-dist", peer.cascade, own.cascade),
        ("cloudpickle", peer.cloudpickle, own.cloudpickle),
    ):
        if theirs != ours:
            warnings.append(f"{who} has {name} {theirs or 'unknown'}, this process {ours}")
    return None, warnings


def _protocol(versions: client_pb2.Versions) -> str:
    return f"{versions.protocol_major}.{versions.protocol_minor}"


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])
