"""How backends reach a Redis: by a client that the user made, or by a URL."""

from __future__ import annotations

import asyncio
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit
from weakref import WeakKeyDictionary

from cascade_dist.errors import CascadeError

__all__ = ["REDIS_SCHEMES", "RedisAccess", "check_scheme", "need_redis", "travelling_url"]

REDIS_SCHEMES: Final = ("redis", "rediss", "unix")
CONNECTIONS_MAX = 16
"""To one Redis from one event loop; who finds them all busy waits."""
WAIT_SECONDS = 5.0

_KINDS = {"Connection": "redis", "SSLConnection": "rediss", "UnixDomainSocketConnection": "unix"}

# By event loop, as connections belong to one; then by URL.
_shared: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Any]] = WeakKeyDictionary()


class RedisAccess:
    """A client for whoever asks, in whichever event loop that is.

    Args:
        client: a ``redis.asyncio.Redis``, or a URL: redis://, rediss:// or unix://. Of a URL a client is made
            at first use, one per event loop for all who name the URL.

    Raises:
        ValueError: the URL has another scheme.
        TypeError: a client that cannot be awaited, or that turns bytes into text.
        ImportError: a URL, and redis is not installed.
    """

    def __init__(self, client: Any) -> None:
        self._client = None if isinstance(client, str) else client
        self._url = client if isinstance(client, str) else None
        if self._url is not None:
            check_scheme(self._url)
            need_redis()
        else:
            _check_client(client)

    @property
    def url(self) -> str | None:
        """The URL of the Redis; None when the client has none that says all there is to say."""
        return _url_of(self._client) if self._url is None else self._url

    def client(self) -> Any:
        """The client for this event loop."""
        if self._url is None:
            return self._client
        loop = asyncio.get_running_loop()
        here = _shared.get(loop)
        if here is None:
            _forget_closed_loops()
            here = _shared[loop] = {}
        if self._url not in here:
            here[self._url] = _connect(self._url)
        return here[self._url]

    async def close(self) -> None:
        """Closes this event loop's connections that were made of the URL; the next use makes new ones."""
        if self._url is not None:
            client = _shared.get(asyncio.get_running_loop(), {}).pop(self._url, None)
            if client is not None:
                await client.aclose()


def check_scheme(url: str) -> None:
    """Raises ValueError unless the URL is that of a Redis."""
    scheme = urlsplit(url).scheme
    if scheme not in REDIS_SCHEMES:
        raise ValueError(
            f"the URL has the scheme {scheme!r}; it is redis://HOST:PORT/DB, rediss://… or unix://PATH"
        )


def need_redis() -> None:
    """Raises ImportError, naming the remedy, where redis is not installed."""
    try:
        import redis.asyncio  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"a Redis is named, and the package redis is missing ({error}): pip install redis"
        ) from None


def _check_client(client: Any) -> None:
    kind = type(client)
    if kind.__module__ == "redis.client" or not callable(getattr(client, "get", None)):
        raise TypeError(
            f"client is a {kind.__module__}.{kind.__qualname__}: give a redis.asyncio.Redis, or a URL"
        )
    if _settings(client).get("decode_responses"):
        raise TypeError(
            "the client decodes what it reads, and values are bytes: make it without decode_responses"
        )


def _settings(client: Any) -> dict[str, Any]:
    found = getattr(getattr(client, "connection_pool", None), "connection_kwargs", None)
    return found if isinstance(found, dict) else {}


def _url_of(client: Any) -> str | None:
    settings = _settings(client)
    pool = getattr(client, "connection_pool", None)
    scheme = _KINDS.get(getattr(getattr(pool, "connection_class", None), "__name__", ""))
    if scheme is None or settings.get("credential_provider"):
        return None
    user, password = (quote(settings.get(name) or "", safe="") for name in ("username", "password"))
    login = f"{user}:{password}@" if password else ""
    query = {
        name: value for name, value in settings.items() if name.startswith("ssl_") and isinstance(value, str)
    }
    if scheme == "unix":
        return f"unix://{login}{settings['path']}?{urlencode({'db': settings.get('db') or 0})}"
    host = settings.get("host") or "localhost"
    host = f"[{host}]" if ":" in host else host
    tail = f"?{urlencode(query)}" if query and scheme == "rediss" else ""
    return f"{scheme}://{login}{host}:{settings.get('port') or 6379}/{settings.get('db') or 0}{tail}"


def _connect(url: str) -> Any:
    import redis.asyncio

    pool = redis.asyncio.BlockingConnectionPool.from_url(
        url,
        max_connections=CONNECTIONS_MAX,
        timeout=WAIT_SECONDS,
        socket_timeout=WAIT_SECONDS,
        socket_connect_timeout=WAIT_SECONDS,
    )
    return redis.asyncio.Redis.from_pool(pool)


def _forget_closed_loops() -> None:
    # Connections know their loop, so a closed one would stay for ever.
    for loop in [loop for loop in _shared if loop.is_closed()]:
        del _shared[loop]


def travelling_url(access: RedisAccess, what: str) -> str:
    """The URL by which a backend travels.

    Raises:
        CascadeError: there is none.
    """
    url = access.url
    if url is None:
        raise CascadeError(
            f"a {what} travels to workers by the URL of its Redis, and this client does not tell one: give "
            "the backend a URL in place of the client"
        )
    return url
