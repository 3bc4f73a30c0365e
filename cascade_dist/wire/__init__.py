"""The border between our objects and gRPC: channels, versions, tokens, TLS, addresses, graphs as messages."""

from __future__ import annotations

from cascade_dist.wire import grpc_import  # isort: skip - before all that import gRPC

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

del grpc_import
