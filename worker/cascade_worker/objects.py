"""Files that the worker keeps: results too large to send, copies of other workers' results, blobs."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cascade_worker.directories import Directories
from cascade_worker.executor.segments import (
    BOUNDS,
    FREE,
    SEGMENT_BYTES_MIN,
    free_name,
    free_size,
    remove_file,
)

__all__ = ["Kept", "ObjectStore", "keep_house"]

_FULL = 0.8
"""Above this share of its bound the first directory is emptied."""
_FREE_MAX = 64
"""Most free segments."""
_IDLE_SECONDS = 60.0
"""How long a copy of another worker's result is kept that no task here needs."""
_FREE_SECONDS = 30.0
"""How long a free segment waits for somebody who needs it."""
_HOUSE_PERIOD = 10.0


def _segments(free: Path) -> Iterator[tuple[float, int, str]]:
    """Of each free segment: since when it is one, size, path."""
    for entry in os.scandir(free):
        with contextlib.suppress(FileNotFoundError):  # claimed this moment
            yield entry.stat().st_ctime, free_size(entry.name), entry.path


class Kept(NamedTuple):
    """A file of the store."""

    path: str
    size: int
    place: int
    """Which of the directories it lies in."""


class ObjectStore:
    """What lies where.

    Results made here stay until the scheduler releases them. Copies and blobs are a cache: the least recently
    used go when they are too many, but not while an attempt that needs them is held. What is above a bound of
    the first directory moves to the second one, see `spilling`.

    Args:
        directories: in order of preference; results go to the first that has room.
        cache_bytes_max: most bytes of copies and blobs that nobody needs right now.
        free_bytes_max: most bytes of released results whose files are kept for others.
        bytes_max: most bytes of everything, by directory; None: as much as fits.
    """

    def __init__(
        self,
        directories: list[Directories],
        cache_bytes_max: int = 1 << 30,
        free_bytes_max: int = 1 << 28,
        bytes_max: Sequence[int | None] = (),
    ) -> None:
        self._directories = directories
        self.object_dirs = tuple([str(each.room("objects")) for each in directories])
        """Where executors write large results."""
        self._cache_bytes_max = cache_bytes_max
        self._free_bytes_max = free_bytes_max
        self.bytes_max = (*bytes_max, None, None)[: len(directories)]
        self._held = [0] * len(directories)
        """Bytes by directory, without links and free segments."""
        self.changed: Callable[[], None] = lambda: None
        """Called when the room in a directory with a bound is another."""
        self._made: OrderedDict[int, Kept] = OrderedDict()
        """Results made here, by attempt."""
        self._cached: OrderedDict[int | bytes, Kept] = OrderedDict()
        """Copies by attempt and blobs by CID."""
        self._cached_bytes = 0
        self._pins: dict[int | bytes, set[int]] = {}
        """Who needs what: attempts by key."""
        self._pinned_by: dict[int, list[int | bytes]] = {}
        self._idle: dict[int | bytes, float] = {}
        """Copies that nobody needs, since when (`time.monotonic()`)."""
        self._links: dict[int, tuple[str, int]] = {}
        """Links to files of other workers of this host, as long as attempts here need them."""
        self._released: set[int] = set()
        """Results that were released while they were needed here."""

    def held(self) -> list[int]:
        """Results made here, and copies of others', for Hello."""
        return [*self._made, *(key for key in self._cached if isinstance(key, int))]

    # --- room ---------------------------------------------------------------------------------------

    def room(self, place: int) -> int | None:
        """Bytes that the bound of a directory leaves; None: it has none."""
        most = self.bytes_max[place]
        return None if most is None else max(0, most - self._held[place])

    def rooms(self) -> list[int | None]:
        """The room in each directory."""
        return [self.room(place) for place in range(len(self._directories))]

    def refusal(self, size: int) -> str:
        """Why nothing of this size can be kept."""
        reasons = [
            f"{directories.root} holds at most {most:,} bytes ({flag})"
            for directories, most, flag in zip(self._directories, self.bytes_max, BOUNDS, strict=False)
            if most is not None and size > most
        ]
        return " and ".join(reasons) or "all that the object store may hold is in use"

    def _hold(self, place: int, size: int) -> None:
        """So many bytes more, or fewer."""
        self._held[place] += size
        most = self.bytes_max[place]
        if most is None:
            return
        if place == 0 and size > 0 and self._held[0] + self._free_bytes_max > most:
            self.trim_free(keep=most - self._held[0])
        self.changed()

    def paths_for(self, key: int | bytes, size: int = 0) -> list[str]:
        """Where a copy or blob with this key may go, in order of preference."""
        room, name = ("copies", f"{key:016x}") if isinstance(key, int) else ("blobs", key.hex())
        return [
            str(directories.room(room) / name)
            for place, directories in enumerate(self._directories)
            if (left := self.room(place)) is None or size <= left
        ]

    def _place_of(self, path: str) -> int:
        for place, directories in enumerate(self._directories):
            if path.startswith(f"{directories.root}/"):
                return place
        return len(self._directories) - 1

    # --- what is there ------------------------------------------------------------------------------

    def add_made(self, attempt: int, size: int) -> None:
        """An executor has written a result."""
        for place, directory in enumerate(self.object_dirs):
            path = f"{directory}/{attempt:016x}"
            if os.path.exists(path):
                self._made[attempt] = Kept(path, size, place)
                self._hold(place, size)
                return

    def add_cached(self, key: int | bytes, path: str, size: int) -> None:
        """A copy or blob is complete."""
        if key not in self._cached:
            place = self._place_of(path)
            self._cached[key] = Kept(path, size, place)
            self._cached_bytes += size
            self._hold(place, size)
        self._evict()

    def find(self, key: int | bytes) -> tuple[str, int] | None:
        """Path and size of an object or blob that is here."""
        if isinstance(key, int):
            made = self._made.get(key)
            if made is not None:
                self._made.move_to_end(key)
                return made.path, made.size
            if key in self._links:
                return self._links[key]
        found = self._cached.get(key)
        if found is None:
            return None
        self._cached.move_to_end(key)
        return found.path, found.size

    def link(self, attempt: int, size: int, maker: str) -> tuple[str, int] | None:
        """Path and size of a result that another worker of this host keeps, under a name of our own.

        None when it is not to be seen here. The link lasts until those who have it pinned need it no more, so
        that its maker can write into the file again.
        """
        if attempt not in self._pins or not maker or os.sep in maker or maker.startswith("."):
            return None
        name = f"{attempt:016x}"
        for directories in self._directories:
            path = f"{directories.root}/copies/{name}"
            with contextlib.suppress(OSError):
                os.link(f"{directories.root.parent}/{maker}/objects/{name}", path)
                if os.stat(path).st_size == size:
                    self._links[attempt] = (path, size)
                    return path, size
                os.unlink(path)
        return None

    def pin(self, key: int | bytes, attempt: int) -> None:
        """An attempt needs it: it stays."""
        self._pins.setdefault(key, set()).add(attempt)
        self._idle.pop(key, None)
        self._pinned_by.setdefault(attempt, []).append(key)

    def unpin(self, attempts: Iterable[int]) -> None:
        """These attempts need nothing any more."""
        if not self._pinned_by:
            return
        freed = False
        for attempt in attempts:
            for key in self._pinned_by.pop(attempt, ()):
                users = self._pins.get(key)
                if users is None:
                    continue
                users.discard(attempt)
                if not users:
                    del self._pins[key]
                    freed = True
                    if isinstance(key, int):
                        self._let_go(key)
                        if key in self._cached:
                            self._idle[key] = time.monotonic()
        if freed:
            self._evict()

    def _let_go(self, attempt: int) -> None:
        """No attempt here needs a result any more."""
        if attempt in self._released:
            self._released.discard(attempt)
            self._remove_made(attempt)
        link = self._links.pop(attempt, None)
        if link is not None:
            with contextlib.suppress(OSError):
                os.unlink(link[0])

    def release(self, attempt: int) -> None:
        """Nobody needs a result any more. A copy of it goes as well."""
        if attempt in self._made:
            if attempt in self._pins:
                self._released.add(attempt)
            else:
                self._remove_made(attempt)
        elif attempt in self._cached and attempt not in self._pins:
            self._drop_cached(attempt)

    def discard(self, attempt: int) -> None:
        """What an attempt may have written will never be asked for, complete or not."""
        self._take_made(attempt)
        for directories in self._directories:
            with contextlib.suppress(OSError):
                os.unlink(directories.room("objects") / f"{attempt:016x}")

    def publish(self, attempt: int, cid: bytes) -> None:
        """A result made here is a blob now; the file stays as one."""
        made = self._take_made(attempt)
        if made is None:
            return
        path = str(self._directories[made.place].room("blobs") / cid.hex())
        os.rename(made.path, path)
        self.add_cached(cid, path, made.size)

    def _take_made(self, attempt: int) -> Kept | None:
        made = self._made.pop(attempt, None)
        if made is not None:
            self._hold(made.place, -made.size)
        return made

    def _remove_made(self, attempt: int) -> None:
        made = self._take_made(attempt)
        if made is not None:
            with contextlib.suppress(OSError):
                self._set_free(attempt, made)

    # --- spilling -----------------------------------------------------------------------------------

    @property
    def crowded(self) -> bool:
        """More lies in the first directory than is to stay there, and there is a second one."""
        most = self.bytes_max[0]
        return most is not None and len(self._directories) > 1 and self._held[0] > most * _FULL

    def crowd_out(self) -> Kept | None:
        """Drops copies that nobody needs until it is crowded no more; else the result to move away.

        None: nothing is left that nobody needs right now.
        """
        for key in [key for key, kept in self._cached.items() if not kept.place and key not in self._pins]:
            if not self.crowded:
                return None
            self._drop_cached(key)
        if not self.crowded:
            return None
        return next(
            (made for attempt, made in self._made.items() if not made.place and attempt not in self._pins),
            None,
        )

    def spill_path(self, made: Kept) -> str | None:
        """Where a result may move to; None: there is no room."""
        room = self.room(1)
        if room is not None and made.size > room:
            return None
        return str(self._directories[1].room("objects") / os.path.basename(made.path))

    def spilled(self, made: Kept, path: str) -> bool:
        """A result has been copied there; False: it is needed where it was, or not at all any more."""
        attempt = int(os.path.basename(made.path), 16)
        if self._made.get(attempt) != made or attempt in self._pins:
            return False
        self._made[attempt] = Kept(path, made.size, 1)
        self._hold(1, made.size)
        self._hold(0, -made.size)
        with contextlib.suppress(OSError):
            self._set_free(attempt, made)
        return True

    # --- free segments ------------------------------------------------------------------------------

    def _set_free(self, attempt: int, made: Kept) -> None:
        """Keeps the file for a result to come, if it is worth that and lies where they are written first.

        Where there is one directory it is one of a disk, whose files are not worth keeping.
        """
        path, size, place = made
        keep = self._free_bytes_max
        if (room := self.room(0)) is not None:
            keep = min(keep, room)
        if place or not SEGMENT_BYTES_MIN <= size <= keep or len(self._directories) == 1:
            remove_file(path)
            return
        self.trim_free(keep - size)
        os.rename(path, self._directories[0].room(FREE) / free_name(attempt, size))

    def trim_free(self, keep: int | None = None, older_than: float = 0.0) -> None:
        """Removes free segments that are too many, and those from before a time.

        Args:
            keep: bytes that may stay; None: as many as the store keeps.
            older_than: by the clock of files, `time.time()`.
        """
        most = self._free_bytes_max if keep is None else keep
        segments = sorted(_segments(self._directories[0].room(FREE)))
        total = sum(size for _, size, _ in segments)
        count = len(segments)
        for since, size, path in segments:
            if total <= most and count < _FREE_MAX and since >= older_than:
                return
            remove_file(path)
            total -= size
            count -= 1

    def drop_idle(self, before: float) -> None:
        """Drops copies that nobody has needed since then; their makers may have them still."""
        for key in [key for key, since in self._idle.items() if since < before]:
            self._drop_cached(key)

    def _drop_cached(self, key: int | bytes) -> None:
        self._idle.pop(key, None)
        kept = self._cached.pop(key)
        self._cached_bytes -= kept.size
        self._hold(kept.place, -kept.size)
        with contextlib.suppress(OSError):
            if isinstance(key, int):
                self._set_free(key, kept)
            else:
                os.unlink(kept.path)

    def _evict(self) -> None:
        if self._cached_bytes <= self._cache_bytes_max:
            return
        for key in list(self._cached):
            if self._cached_bytes <= self._cache_bytes_max:
                return
            if key not in self._pins:
                self._drop_cached(key)

    def close(self) -> None:
        """Removes all files."""
        for directories in self._directories:
            directories.remove()


async def keep_house(store: ObjectStore) -> None:
    """Gives the memory of segments back that nobody has used for a while. Ends when it is cancelled."""
    while True:
        await asyncio.sleep(_HOUSE_PERIOD)
        store.trim_free(older_than=time.time() - _FREE_SECONDS)
        store.drop_idle(time.monotonic() - _IDLE_SECONDS)
