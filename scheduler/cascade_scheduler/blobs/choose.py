"""Where a scheduler keeps its blobs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from urllib.parse import urlsplit, urlunsplit

from cascade_dist.errors import ConfigError
from cascade_dist.storage.pin_names import store_pins
from cascade_scheduler.blobs.base import BlobStore
from cascade_scheduler.blobs.files import FileBlobStore
from cascade_scheduler.blobs.memory import MemoryBlobStore

__all__ = ["BlobPlace", "choose_blobs"]

_TEMPORARY = "cascade-blobs-"


class BlobPlace:
    """A blob store, and what is to be cleaned up when the scheduler ends."""

    def __init__(self, store: BlobStore, temporary: Path | None = None) -> None:
        self.store = store
        self._temporary = temporary

    @property
    def temporary(self) -> bool:
        """Whether it goes with this process."""
        return self._temporary is not None

    def with_store(self, store: BlobStore) -> BlobPlace:
        """The same place with a store on top."""
        return BlobPlace(store, self._temporary)

    def __enter__(self) -> BlobPlace:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clean()

    def clean(self) -> None:
        """Deletes a directory that only this process needed."""
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def choose_blobs(uri: str | None, *, state: str, bytes_max: int) -> BlobPlace:
    """The blob store of a scheduler: memory://, file:///DIRECTORY (or a path), ipfs://HOST:PORT.

    Without a directory, blobs live as long as the runs that name them: with a state in memory in a temporary
    directory that goes with the process; else in the user's state directory, under a name that belongs to the
    state's URL, so that the next scheduler on the same Redis finds them.

    Raises:
        BlobError: the directory cannot be used.
        ConfigError: no such scheme, or no address of a node; or aiohttp is not installed.
    """
    if uri is None:
        return _in_files(state, bytes_max)
    scheme, mark, rest = uri.partition("://")
    if mark and scheme == "ipfs":
        return _in_ipfs(uri, state, bytes_max)
    if uri == "memory://":
        return BlobPlace(MemoryBlobStore(bytes_max))
    if not uri or (mark and (scheme != "file" or not rest.startswith("/"))):
        raise ConfigError(f"--blobs {uri!r} is not memory://, file:///DIRECTORY, a path, or ipfs://HOST:PORT")
    return BlobPlace(FileBlobStore(Path(rest if mark else uri).expanduser(), bytes_max))


def _in_ipfs(uri: str, state: str, bytes_max: int) -> BlobPlace:
    address, mark, directory = uri.partition("?dir=")
    place = (
        choose_blobs(f"file://{directory}", state=state, bytes_max=bytes_max)
        if mark
        else _in_files(state, bytes_max)
    )
    local = place.store
    assert isinstance(local, FileBlobStore)
    temporary = place.temporary or urlsplit(state).scheme == "memory"
    try:
        from cascade_dist.storage.kubo import api_url
        from cascade_scheduler.blobs.ipfs import IpfsBlobStore

        name = store_pins(temporary, _digest(str(local.directory.absolute())))
        store = IpfsBlobStore(local, api_url(address), name=name, temporary=temporary, lives=_lives)
    except (ValueError, ImportError) as error:
        place.clean()
        raise ConfigError(f"--blobs: {error}") from None
    return place.with_store(store)


def _in_files(state: str, bytes_max: int) -> BlobPlace:
    if urlsplit(state).scheme == "memory":
        _sweep()
        temporary = Path(tempfile.mkdtemp(prefix=f"{_TEMPORARY}{os.getpid()}-"))
        return BlobPlace(FileBlobStore(temporary, bytes_max, lasting=False), temporary)
    home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
    return BlobPlace(FileBlobStore(home / "cascade" / "blobs" / _name_of(state), bytes_max))


def _name_of(state: str) -> str:
    """A short name for a state; who connects to it plays no part."""
    parts = urlsplit(state)
    place = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))
    return _digest(place)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sweep() -> None:
    """Deletes what schedulers left that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*-*"):
        number = path.name.removeprefix(_TEMPORARY).partition("-")[0]
        with contextlib.suppress(OSError):
            if number.isdigit() and path.stat().st_uid == os.getuid() and not _lives(int(number)):
                shutil.rmtree(path, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
