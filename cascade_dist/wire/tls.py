"""TLS and mutual TLS from PEM files."""

from __future__ import annotations

import os
from pathlib import Path

import grpc

from cascade_dist.errors import ConfigError

__all__ = ["client_credentials", "server_credentials"]

_Path = str | os.PathLike[str] | None


def client_credentials(
    ca: _Path = None, cert: _Path = None, key: _Path = None, *, tls: bool = False
) -> grpc.ChannelCredentials | None:
    """Credentials of a channel; None for none.

    Args:
        ca: PEM file with the authorities to trust; None: those of the system.
        cert: PEM file with this side's certificate, for mutual TLS.
        key: PEM file with its private key.
        tls: use TLS even when no file is given.

    Raises:
        ConfigError: a file cannot be read or is no PEM, or one of cert and key is missing; names it.
    """
    if not (ca or cert or key or tls):
        return None
    _check_pair(cert, key)
    return grpc.ssl_channel_credentials(
        _read(ca, "--tls-ca"), _read(key, "--tls-key"), _read(cert, "--tls-cert")
    )


def server_credentials(
    cert: _Path = None, key: _Path = None, ca: _Path = None
) -> grpc.ServerCredentials | None:
    """Credentials of a server; None for none.

    Args:
        cert: PEM file with the server's certificate.
        key: PEM file with its private key.
        ca: PEM file with the authorities that clients' certificates must come from: mutual TLS.

    Raises:
        ConfigError: a file cannot be read or is no PEM, or cert or key is missing; names it.
    """
    if not (ca or cert or key):
        return None
    _check_pair(cert, key)
    if not cert:
        raise ConfigError("--tls-ca is given without --tls-cert and --tls-key, which a server with TLS needs")
    pair = (_read(key, "--tls-key") or b"", _read(cert, "--tls-cert") or b"")
    return grpc.ssl_server_credentials([pair], _read(ca, "--tls-ca"), require_client_auth=ca is not None)


def _check_pair(cert: _Path, key: _Path) -> None:
    if bool(cert) != bool(key):
        given, missing = ("--tls-cert", "--tls-key") if cert else ("--tls-key", "--tls-cert")
        raise ConfigError(f"{given} is given without {missing}: a certificate needs its private key")


def _read(name: _Path, option: str) -> bytes | None:
    if not name:
        return None
    path = Path(name).expanduser()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror or error}") from error
    if b"-----BEGIN" not in data:
        raise ConfigError(f"{option} {path} is no PEM file: it has no line -----BEGIN …-----")
    return data
