"""A backend in IPFS: keys in another backend, bytes on a node."""

from __future__ import annotations

import logging
import pickle
import time
from dataclasses import dataclass
from typing import Any

from cascade_dist.caching.backends import CacheBackend
from cascade_dist.caching.pins import PinBook
from cascade_dist.codec.cid import cid_of, cid_to_text
from cascade_dist.storage.kubo import TOTAL_SECONDS, Kubo, check_api_url
from cascade_dist.storage.pin_names import CACHE_PINS

__all__ = ["VALUE_BYTES_MAX", "IpfsCacheBackend"]

VALUE_BYTES_MAX = 1 << 30
"""A larger value is not kept."""
COLLECT_SECONDS = 60.0
"""How often whoever uses the backend looks for what is to be unpinned."""
_COLLECT_ALONG = 16
"""At most so many are unpinned along with a call."""
_MARGIN_SECONDS = 1.0
"""The book's end of a key is later than the key's own: it must not be over while the key is there."""
_PREFIX = "ipfs:"
"""Before each key in the other backend, which may keep values of the same keys too (`SizeTieredCache`)."""

log = logging.getLogger("cascade.caching")


@dataclass(eq=False)
class IpfsCacheBackend:
    """Keeps the content id of a value by key in another backend, and the value's bytes in IPFS, pinned.

    Values of equal bytes share a content id. A time to live is that of the key; bytes that no live key names
    any more are unpinned by whoever uses the backend next, in this process or another, at most once a minute,
    or by `collect`. For that the other backend keeps a book of the keys of each content id; one that cannot
    (it has no method ``pins``; and an `InMemoryCacheBackend` on a worker) unpins nothing, ever. Who has a
    content id can read the bytes.

    Args:
        metadata_backend: keeps content ids, as text, at ``ipfs:`` and key.
        ipfs_api_url: of a Kubo node's RPC.

    Raises:
        TypeError: no backend.
        ValueError: no such URL.
    """

    metadata_backend: CacheBackend
    ipfs_api_url: str = "http://127.0.0.1:5001"

    def __post_init__(self) -> None:
        if not isinstance(self.metadata_backend, CacheBackend):
            raise TypeError(
                f"metadata_backend is {self.metadata_backend!r}: give a cache backend, such as "
                "cs.RedisCacheBackend(url)"
            )
        check_api_url(self.ipfs_api_url)
        # No fields: two backends are the same by their options.
        self._pins: PinBook | None = None
        self._collected_at = float("-inf")

    def __reduce__(self) -> tuple[Any, ...]:
        return IpfsCacheBackend, (self.metadata_backend, self.ipfs_api_url)

    async def cid(self, key: str) -> str | None:
        """The content id of a value; None when there is none."""
        found = await self.metadata_backend.get(_PREFIX + key)
        return found if isinstance(found, str) else None

    async def get(self, key: str) -> Any:
        """The value; None when there is none.

        Raises:
            IpfsError: the node does not have its bytes, or gave others.
        """
        cid = await self.cid(key)
        if cid is None:  # which a node that hangs shall not hold up
            return None
        async with Kubo(self.ipfs_api_url) as kubo:
            value = pickle.loads(await kubo.cat(cid, VALUE_BYTES_MAX))
            await self._collect_along(kubo)
            return value

    async def set(self, key: str, value: Any, ttl: float | None = None) -> None:
        """Keeps a value; the key for `ttl` seconds or for as long as there is room.

        Raises:
            ValueError: it is too large.
            IpfsError: the node did not take it.
        """
        data = pickle.dumps(value, 5)
        if len(data) > VALUE_BYTES_MAX:
            raise ValueError(
                f"the value has {len(data):,} bytes, and a cache in IPFS keeps values of up to "
                f"{VALUE_BYTES_MAX:,}"
            )
        name, cid = _PREFIX + key, cid_to_text(cid_of(data))
        before = await self.cid(key)
        async with Kubo(self.ipfs_api_url) as kubo:
            pins = await self._book(kubo)
            if pins is not None:  # before it is pinned, or who collects now would unpin it
                await pins.hold(cid, name, None if ttl is None else ttl + 2 * TOTAL_SECONDS)
            await kubo.add(data, CACHE_PINS)
            await self.metadata_backend.set(name, cid, ttl)
            if pins is None:
                return
            await pins.hold(cid, name, None if ttl is None else ttl + _MARGIN_SECONDS)
            if before is not None and before != cid:
                await pins.drop(before, name)
                await self._collect(kubo, pins, _COLLECT_ALONG)
            else:
                await self._collect_along(kubo)

    async def delete(self, key: str) -> None:
        """Forgets a value. Its bytes are unpinned unless another key names them.

        Raises:
            IpfsError: the node could not be asked.
        """
        cid = await self.cid(key)
        await self.metadata_backend.delete(_PREFIX + key)
        if cid is None:
            return
        async with Kubo(self.ipfs_api_url) as kubo:
            pins = await self._book(kubo)
            if pins is not None:
                await pins.drop(cid, _PREFIX + key)
                await self._collect(kubo, pins, _COLLECT_ALONG)

    async def collect(self, limit: int = 1000) -> int:
        """Unpins what no live key names, at most so much; returns how much that was.

        Raises:
            IpfsError: the node could not be asked; what is left is collected the next time.
        """
        async with Kubo(self.ipfs_api_url) as kubo:
            pins = await self._book(kubo)
            return 0 if pins is None else await self._collect(kubo, pins, limit)

    async def _collect(self, kubo: Kubo, pins: PinBook, limit: int) -> int:
        self._collected_at = time.monotonic()
        unpinned = 0
        for cid, named in await pins.take(limit):
            if not named:
                await kubo.unpin(cid, CACHE_PINS)
                unpinned += 1
            if await pins.finish(cid):
                await kubo.pin(cid, CACHE_PINS)
                unpinned -= not named
        return unpinned

    async def _collect_along(self, kubo: Kubo) -> None:
        """Collects when it is time; what fails there is no failure of the call."""
        if time.monotonic() - self._collected_at < COLLECT_SECONDS:
            return
        self._collected_at = time.monotonic()
        try:
            pins = await self._book(kubo)
            if pins is not None:
                await self._collect(kubo, pins, _COLLECT_ALONG)
        except Exception as error:
            log.warning("what no key names any more is not unpinned now: %s", error)

    async def _book(self, kubo: Kubo) -> PinBook | None:
        """Of this node, whatever its URL is elsewhere."""
        if self._pins is None and (make := getattr(self.metadata_backend, "pins", None)) is not None:
            self._pins = make(f"ipfs-pins:{await kubo.peer_id()}:")
        return self._pins
