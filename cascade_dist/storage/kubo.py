"""An IPFS node by Kubo's RPC. Bytes are told by their content id, which is computed here too."""

from __future__ import annotations

import io
import json
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cascade_dist.codec.cid import CHUNK_BYTES, LINKS_MAX, CidHasher, cid_from_text, cid_of, cid_to_text
from cascade_dist.errors import CascadeError

if TYPE_CHECKING:
    import aiohttp

__all__ = ["IpfsError", "Kubo", "check_api_url"]

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 20.0
"""How long a node may say nothing: one on the network looks for bytes that it lacks, for ever."""
TOTAL_SECONDS = 300.0
_READ_BYTES = 1 << 20
_ANSWER_BYTES_MAX = 1 << 20

# Whatever the node's own settings say: a CID is the same in every store.
_ADD = {
    "cid-version": "1",
    "raw-leaves": "true",
    "chunker": f"size-{CHUNK_BYTES}",
    "hash": "sha2-256",
    "max-file-links": str(LINKS_MAX),
    "trickle": "false",
    "inline": "false",
    "wrap-with-directory": "false",
    "nocopy": "false",
    "pin": "true",
    "progress": "false",
}


class IpfsError(CascadeError):
    """An IPFS node that does not do what was asked; says what it answered."""


def check_api_url(url: str) -> str:
    """The base of a node's RPC: http://host:port.

    Raises:
        ValueError: it is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"ipfs_api_url is {url!r}: give the URL of a node's RPC, like http://127.0.0.1:5001")
    return url.rstrip("/").removesuffix("/api/v0")


class Kubo:
    """A node, for the time of an ``async with``: one session, of the event loop that entered it.

    Args:
        url: of the node's RPC.

    Raises:
        ValueError: it is no such URL.
        ImportError: aiohttp is not installed.
    """

    def __init__(self, url: str) -> None:
        self._base = check_api_url(url)
        self._aiohttp = _need_aiohttp()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Kubo:
        timeout = self._aiohttp.ClientTimeout(
            total=TOTAL_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=SILENCE_SECONDS
        )
        self._session = self._aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def add(self, data: bytes) -> str:
        """Stores and pins bytes; returns their CID.

        Raises:
            IpfsError: the node could not, or calls them by another CID.
        """
        form = self._aiohttp.FormData()
        form.add_field("file", io.BytesIO(data), filename="blob")
        raw = await self._call("add", _ADD, _ANSWER_BYTES_MAX, form)
        try:
            told = json.loads(raw.splitlines()[-1])["Hash"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise IpfsError(
                f"the IPFS node at {self._base} did not say what it stored: {raw[:200]!r}"
            ) from None
        wanted = cid_to_text(cid_of(data))
        if told != wanted:
            raise IpfsError(f"the IPFS node at {self._base} calls the bytes {told!r}; their CID is {wanted}")
        return wanted

    async def cat(self, cid: str, bytes_max: int) -> bytes:
        """The bytes of a CID.

        Raises:
            ValueError: it is no CID of ours.
            IpfsError: the node does not have them, they are more than `bytes_max`, or other bytes.
        """
        wanted = cid_from_text(cid)
        data = await self._call("cat", {"arg": cid, "length": str(bytes_max + 1)}, bytes_max)
        hasher = CidHasher()
        hasher.update(data)
        if hasher.digest() != wanted:
            raise IpfsError(f"what the IPFS node at {self._base} gave for {cid} does not hash to it: refused")
        return data

    async def unpin(self, cid: str) -> None:
        """Lets the node forget the bytes of a CID; one that is not pinned is passed over.

        Raises:
            IpfsError: the node could not.
        """
        try:
            await self._call("pin/rm", {"arg": cid}, _ANSWER_BYTES_MAX)
        except IpfsError as error:
            if "not pinned" not in str(error):
                raise

    async def _call(
        self, command: str, options: dict[str, str], bytes_max: int, form: aiohttp.FormData | None = None
    ) -> bytes:
        assert self._session is not None, "enter it first"
        url = f"{self._base}/api/v0/{command}"
        try:
            async with self._session.post(url, params=options, data=form) as response:
                if response.status != 200:
                    text = (await response.content.read(_ANSWER_BYTES_MAX)).decode(errors="replace")
                    raise IpfsError(f"the IPFS node at {self._base} refused {command}: {_message(text)}")
                pieces = []
                size = 0
                async for piece in response.content.iter_chunked(_READ_BYTES):
                    size += len(piece)
                    if size > bytes_max:
                        raise IpfsError(f"the IPFS node at {self._base} gave more than {bytes_max:,} bytes")
                    pieces.append(piece)
                return b"".join(pieces)
        except (self._aiohttp.ClientError, OSError) as error:  # a timeout is an OSError
            raise IpfsError(f"no answer of an IPFS node at {self._base}: {_why(error)}") from None


def _message(text: str) -> str:
    try:
        return str(json.loads(text)["Message"])
    except (ValueError, KeyError, TypeError):
        return text.strip()[:200] or "it did not say why"


def _why(error: BaseException) -> str:
    return str(error).strip() or type(error).__name__


def _need_aiohttp() -> Any:
    try:
        import aiohttp
    except ImportError as error:
        raise ImportError(
            f"an IPFS node is named, and the package aiohttp is missing ({error}): "
            "pip install cascade-dist[ipfs]"
        ) from None
    return aiohttp
