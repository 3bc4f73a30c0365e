"""The seal of what is kept in Redis: whoever reads a record back knows that one of us wrote it.

Stored values are pickles, and loading a pickle runs code; so nobody loads one whose seal does not fit. The
key is not the cluster's token: it belongs to the user, so that a run resumes and a cache hits after the
process that wrote them is gone. Clusters that share a Redis share the key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cascade_dist.errors import CascadeError, ConfigError

__all__ = [
    "KEY_BYTES_MIN",
    "SEAL_BYTES",
    "SealError",
    "Sealer",
    "give_seal_key",
    "read_seal_key",
    "state_directory",
]

KEY_BYTES_MIN = 16
KEY_BYTES_MAX = 4_096
_MARK = b"\x93CASCSL1"
"""Stands before the code and ends with the seal's version. `pickle.loads` ignores what follows a pickle."""
_CODE_BYTES = 32
_BLOCK_BYTES = 64
"""Of SHA-256."""
SEAL_BYTES = len(_MARK) + 8 + _CODE_BYTES


class SealError(CascadeError, ValueError):
    """A record that is not sealed, or not with our key; says which."""


class Sealer:
    """Seals records and opens them. A seal covers the run, the node, the attempt and the bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) < KEY_BYTES_MIN:
            raise ConfigError(f"a seal key has at least {KEY_BYTES_MIN} bytes; this one has {len(key)}")
        # HMAC-SHA256 with what depends on the key alone done once: half the time of `hmac.digest`.
        block = (key if len(key) <= _BLOCK_BYTES else hashlib.sha256(key).digest()).ljust(_BLOCK_BYTES, b"\0")
        self._inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.sha256(bytes(byte ^ 0x5C for byte in block))

    def seal(self, run: str, node: str, attempt: int, data: bytes) -> bytes:
        """The record with its seal behind it."""
        number = attempt.to_bytes(8, "big")
        return b"".join((data, _MARK, number, self._code(run, node, number, data)))

    def open(self, run: str, node: str, record: bytes) -> tuple[int, bytes]:
        """The attempt and the bytes of a record.

        Raises:
            SealError: it carries no seal, or one that does not fit; names the run and the node.
        """
        data, mark = record[:-SEAL_BYTES], record[-SEAL_BYTES : -SEAL_BYTES + len(_MARK)]
        number, code = record[-_CODE_BYTES - 8 : -_CODE_BYTES], record[-_CODE_BYTES:]
        if len(record) < SEAL_BYTES or mark != _MARK:
            raise SealError(
                f"the record of {node!r} of run {run!r} carries no seal: another program wrote it"
            )
        if not hmac.compare_digest(code, self._code(run, node, number, data)):
            raise SealError(
                f"the record of {node!r} of run {run!r} is sealed with another key, or was changed: clusters "
                f"that share a Redis share the key (--seal-key-file, CASCADE_SEAL_KEY)"
            )
        return int.from_bytes(number, "big"), data

    def _code(self, run: str, node: str, number: bytes, data: bytes) -> bytes:
        name, key = run.encode(), node.encode()
        # Lengths go first, so that no two different records are the same bytes.
        head = b"%d:%d:%d:" % (len(name), len(key), len(data))
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(b"".join((_MARK, head, name, key, number, data)))
        outer.update(inner.digest())
        return outer.digest()


def state_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Where this user's lasting state of Cascade lives."""
    environ = os.environ if environ is None else environ
    return Path(environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "cascade"


_given: bytes | None = None


def give_seal_key(key: bytes) -> None:
    """Makes a key the one that this process uses: a worker's executors use that of their cluster."""
    global _given
    _given = key


def read_seal_key(file: Path | None = None, environ: Mapping[str, str] | None = None) -> bytes:
    """The key that records are sealed with.

    First match wins: the file, the key that this process was given, CASCADE_SEAL_KEY (the key itself), the
    file `seal-key` in the user's state directory, which is made with mode 0600 when it is not there.

    Raises:
        ConfigError: a file cannot be read or made, or a key is too short.
    """
    if file is None and environ is None and _given is not None:
        return _given
    environ = os.environ if environ is None else environ
    if file is not None:
        return _checked(_read(file.expanduser(), "--seal-key-file"), f"--seal-key-file {file}")
    text = environ.get("CASCADE_SEAL_KEY")
    if text:
        return _checked(text.encode(), "CASCADE_SEAL_KEY")
    path = state_directory(environ) / "seal-key"
    try:
        return _checked(path.read_bytes(), str(path))
    except FileNotFoundError:
        return _make(path)
    except OSError as error:
        raise ConfigError(
            f"the seal key {path} cannot be read: {error.strerror or error}; name one with --seal-key-file"
        ) from None


def _read(path: Path, option: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{option} {path} cannot be read: {error.strerror or error}") from None


def _checked(raw: bytes, origin: str) -> bytes:
    key = raw.strip()
    if len(key) < KEY_BYTES_MIN or len(key) > KEY_BYTES_MAX:
        raise ConfigError(
            f"{origin} holds {len(key)} bytes; a seal key has {KEY_BYTES_MIN} to {KEY_BYTES_MAX}, such as "
            f"`openssl rand -hex 32` prints"
        )
    return key


def _make(path: Path) -> bytes:
    """A new key; of two processes that make one at the same time, both get the same."""
    key = secrets.token_hex(32).encode()
    partial = path.with_name(f"{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(key + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(partial, path)  # unlike a rename, it never takes the place of a key that is there
        except FileExistsError:
            return _checked(path.read_bytes(), str(path))
        finally:
            partial.unlink()
    except OSError as error:
        raise ConfigError(
            f"the seal key {path} cannot be made: {error.strerror or error}; name one with --seal-key-file, "
            f"or give CASCADE_SEAL_KEY"
        ) from None
    return key
