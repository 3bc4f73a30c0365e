"""Addresses as people write them."""

from __future__ import annotations

import ipaddress
import re
from typing import NamedTuple

from cascade_dist.config import DEFAULT_PORT
from cascade_dist.errors import ConfigError

__all__ = ["Address", "check_bind", "is_loopback", "parse_addresses"]

_SCHEMES = {"": None, "cascade": False, "cascades": True}
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?")
_HOW = (
    "write host:port, cascade://host:port (cascades:// for TLS) or [ipv6]:port, several with commas between"
)


class Address(NamedTuple):
    """Where a process listens."""

    host: str
    port: int
    tls: bool | None = None
    """Whether to use TLS; None when the address does not say."""
    socket: str = ""
    """Path of a unix socket on which the same process listens too; empty: there is none."""

    @property
    def direct(self) -> str:
        """Path of the socket for direct streams, beside the one for gRPC; empty: there is none."""
        return f"{self.socket}.direct" if self.socket else ""

    @property
    def target(self) -> str:
        """The address as gRPC takes it: the socket, which takes less of both sides, or ``host:port``."""
        return f"unix:{self.socket}" if self.socket else str(self)

    def __str__(self) -> str:
        """``host:port``, an IPv6 host in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_addresses(text: str, default_port: int = DEFAULT_PORT) -> tuple[Address, ...]:
    """The addresses in a text, in order, each once.

    Args:
        text: such as ``10.0.0.5:7420, cascade://[::1]:7420``.
        default_port: for addresses that name none.

    Raises:
        ConfigError: names the part that cannot be read and how to write it.
    """
    if not isinstance(text, str):
        raise ConfigError(f"address {text!r} is a {type(text).__name__}, not text: {_HOW}")
    parts = [part.strip() for part in text.split(",")]
    found = [_parse(part, default_port) for part in parts if part]
    if not found:
        raise ConfigError(f"address {text!r} is empty: {_HOW}")
    return tuple(dict.fromkeys(found))


def _parse(text: str, default_port: int) -> Address:
    scheme, separator, rest = text.rpartition("://")
    if scheme.lower() not in _SCHEMES or (separator and not scheme):
        raise ConfigError(f"address {text!r} has the scheme {scheme!r}, which is not ours: {_HOW}")
    rest = rest.rstrip("/")
    if not rest:
        raise ConfigError(f"address {text!r} names no host: {_HOW}")
    host, port_text = _split(rest, text)
    port = default_port
    if port_text is not None:
        if not (port_text.isascii() and port_text.isdigit() and 0 < int(port_text) < 65_536):
            raise ConfigError(
                f"address {text!r} has the port {port_text!r}; a port is a number from 1 to 65535: {_HOW}"
            )
        port = int(port_text)
    return Address(host, port, _SCHEMES[scheme.lower()])


def _split(rest: str, text: str) -> tuple[str, str | None]:
    if rest.startswith("["):
        host, bracket, after = rest[1:].partition("]")
        if not bracket or (after and not after.startswith(":")):
            raise ConfigError(f"address {text!r} has brackets that do not close: {_HOW}")
        if not _is_ipv6(host):
            raise ConfigError(f"address {text!r}: {host!r} in brackets is no IPv6 address: {_HOW}")
        return host, after[1:] if after else None
    if rest.count(":") > 1:
        if _is_ipv6(rest):
            raise ConfigError(f"address {text!r} is an IPv6 address without brackets: write [{rest}]:port")
        raise ConfigError(f"address {text!r} has more than one colon: {_HOW}")
    host, colon, port = rest.partition(":")
    if not _HOST.fullmatch(host):
        raise ConfigError(f"address {text!r} has the host {host!r}, which cannot be one: {_HOW}")
    return host, port if colon else None


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text.partition("%")[0])
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Whether a host name or address can be reached from this machine alone. Looks nothing up."""
    host = host.strip("[]").rstrip(".").lower()
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def check_bind(host: str, *, token: str | None, mutual_tls: bool) -> None:
    """Refuses to listen where others can reach an open port.

    Raises:
        ConfigError: the host is not loopback and there is neither token nor mutual TLS.
    """
    if is_loopback(host) or token or mutual_tls:
        return
    raise ConfigError(
        f"--host {host} can be reached from other machines, and whoever reaches it can run code here: give "
        "--token-file FILE (or --tls-cert, --tls-key and --tls-ca for mutual TLS), or listen on 127.0.0.1"
    )
