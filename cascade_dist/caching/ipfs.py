"""A backend in IPFS: keys in another backend, bytes on a node."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from cascade_dist.caching.backends import CacheBackend
from cascade_dist.storage.kubo import Kubo, check_api_url

__all__ = ["VALUE_BYTES_MAX", "IpfsCacheBackend"]

VALUE_BYTES_MAX = 1 << 30
"""A larger value is not kept."""
_KEYS_MAX = 100_000
_PREFIX = "ipfs:"
"""Before each key in the other backend, which may keep values of the same keys too (`SizeTieredCache`)."""


@dataclass(eq=False)
class IpfsCacheBackend:
    """Keeps the content id of a value by key in another backend, and the value's bytes in IPFS, pinned.

    Values of equal bytes share a content id. A time to live is that of the key alone: the bytes stay pinned
    when it is over. Who has a content id can read the bytes.

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
        # No field: what this object has set, so that it unpins nothing that one of its keys still names.
        self._named: OrderedDict[str, str] = OrderedDict()

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
        if cid is None:
            return None
        async with Kubo(self.ipfs_api_url) as kubo:
            return pickle.loads(await kubo.cat(cid, VALUE_BYTES_MAX))

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
        before = await self.cid(key)
        async with Kubo(self.ipfs_api_url) as kubo:
            cid = await kubo.add(data)
        await self.metadata_backend.set(_PREFIX + key, cid, ttl)
        self._named[key] = cid
        self._named.move_to_end(key)
        if len(self._named) > _KEYS_MAX:
            self._named.popitem(last=False)
        if before is not None and before != cid:
            await self._unpin(before)

    async def delete(self, key: str) -> None:
        """Forgets a value. Its bytes are unpinned unless another key that this object has set names them.

        It knows nothing of keys that other processes have set: theirs are misses once the node cleans up.

        Raises:
            IpfsError: the node could not be asked.
        """
        cid = await self.cid(key)
        await self.metadata_backend.delete(_PREFIX + key)
        self._named.pop(key, None)
        if cid is not None:
            await self._unpin(cid)

    async def _unpin(self, cid: str) -> None:
        for key in [key for key, named in self._named.items() if named == cid]:
            if await self.cid(key) == cid:
                return
            self._named.pop(key, None)  # its time is over, or somebody has set it to something else
        async with Kubo(self.ipfs_api_url) as kubo:
            await kubo.unpin(cid)
