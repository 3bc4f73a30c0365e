"""How channels and servers are set up, so that both ends agree."""

from __future__ import annotations

from typing import Any

import grpc
import grpc.aio

from cascade_dist.wire.addresses import Address

__all__ = [
    "KEEPALIVE_SECONDS",
    "KEEPALIVE_TIMEOUT_SECONDS",
    "MESSAGE_BYTES_MAX",
    "PAYLOAD_BYTES_MAX",
    "channel_options",
    "open_channel",
    "server_options",
]

MESSAGE_BYTES_MAX = 16 << 20
"""gRPC refuses larger messages."""

PAYLOAD_BYTES_MAX = 1 << 20
"""No message carries more bytes of users' data than this; the rest is room for tables."""

KEEPALIVE_SECONDS = 20
"""A peer that was silent for so long is asked whether it is there."""
KEEPALIVE_TIMEOUT_SECONDS = 10
"""How long it may take to answer."""

_PING_INTERVAL_MIN_MS = 10_000
_CONNECT_MS = 5_000
_BACKOFF_FIRST_MS = 100
_BACKOFF_MAX_MS = 5_000

_Options = list[tuple[str, Any]]


def _common() -> _Options:
    return [
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1_000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1_000),
        # Without it a peer that stands still, but whose kernel answers, is waited for a minute longer.
        ("grpc.http2.ping_timeout_ms", KEEPALIVE_TIMEOUT_SECONDS * 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
    ]


def channel_options() -> _Options:
    """Options of a channel."""
    return [
        *_common(),
        ("grpc.initial_reconnect_backoff_ms", _BACKOFF_FIRST_MS),
        # By its name a pause, but it bounds one attempt to connect, over any distance and with TLS.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _BACKOFF_MAX_MS),
        # A proxy for the web is no way to a cluster, least of all to one on this machine.
        ("grpc.enable_http_proxy", 0),
        # A channel of its own, so that one that is closed and opened again does not inherit a backoff.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def server_options() -> _Options:
    """Options of a server."""
    return [
        *_common(),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", _PING_INTERVAL_MIN_MS),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_INTERVAL_MIN_MS),
        # Else a second server could take the same port, and calls would go to either.
        ("grpc.so_reuseport", 0),
    ]


def open_channel(
    address: Address | str, credentials: grpc.ChannelCredentials | None = None
) -> grpc.aio.Channel:
    """A channel to an address; it connects at its first call. To be made inside a running event loop."""
    target = address.target if isinstance(address, Address) else address
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=channel_options())
    return grpc.aio.secure_channel(target, credentials, options=channel_options())
