"""The border between our objects and gRPC: channels, versions, tokens, TLS, addresses, graphs as messages.

Executors encode graphs and must not load gRPC, so it is loaded with the first name that is taken from here,
and not by importing `cascade_dist.wire.graphs`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cascade_dist.wire.addresses import Address, check_bind, is_loopback, parse_addresses
    from cascade_dist.wire.auth import TokenAuth, read_token
    from cascade_dist.wire.channels import (
        MESSAGE_BYTES_MAX,
        PAYLOAD_BYTES_MAX,
        channel_options,
        open_channel,
        server_options,
    )
    from cascade_dist.wire.tls import client_credentials, server_credentials
    from cascade_dist.wire.versions import PROTOCOL_VERSION, check_versions, local_versions

__all__ = [
    "MESSAGE_BYTES_MAX",
    "PAYLOAD_BYTES_MAX",
    "PROTOCOL_VERSION",
    "Address",
    "TokenAuth",
    "channel_options",
    "check_bind",
    "check_versions",
    "client_credentials",
    "is_loopback",
    "local_versions",
    "open_channel",
    "parse_addresses",
    "read_token",
    "server_credentials",
    "server_options",
]

_HOMES = {
    "addresses": ("Address", "check_bind", "is_loopback", "parse_addresses"),
    "auth": ("TokenAuth", "read_token"),
    "channels": (
        "MESSAGE_BYTES_MAX",
        "PAYLOAD_BYTES_MAX",
        "channel_options",
        "open_channel",
        "server_options",
    ),
    "tls": ("client_credentials", "server_credentials"),
    "versions": ("PROTOCOL_VERSION", "check_versions", "local_versions"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    importlib.import_module("cascade_dist.wire.grpc_import")  # before all that import gRPC
    found = getattr(importlib.import_module(f"cascade_dist.wire.{home}"), name)
    globals()[name] = found
    return found
