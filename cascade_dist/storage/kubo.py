"""An IPFS node by Kubo's RPC. Bytes are told by their content id, which is computed here too."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from cascade_dist.codec.cid import CHUNK_BYTES, LINKS_MAX, CidHasher, cid_from_text, cid_of, cid_to_text
from cascade_dist.errors import CascadeError
from cascade_dist.storage.pin_names import may_take

if TYPE_CHECKING:
    import aiohttp

__all__ = ["IpfsAway", "IpfsError", "IpfsLacks", "IpfsWrong", "Kubo", "api_url", "check_api_url"]

CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 20.0
"""How long a node may say nothing: one on the network looks for bytes that it lacks, for ever."""
TOTAL_SECONDS = 300.0
PROBE_SECONDS = 2.0
"""How long a node may take to say that it is there."""
BYTES_PER_SECOND_MIN = 1 << 20
"""A transfer that is slower than this, on top of TOTAL_SECONDS, is given up."""
FIND_GRACE_SECONDS = 2.0
"""How much later than a bound that it was given the node may answer."""
LOST_TRIES = 3
LOST_PAUSE = 0.1
"""Seconds before a call is said again whose connection was cut; doubled for each further time."""
_READ_BYTES = 1 << 20
_ANSWER_BYTES_MAX = 1 << 20
_PINS_BYTES_MAX = 256 << 20

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

T = TypeVar("T")
Pieces = Callable[[], AsyncIterator[bytes]]
"""Gives the bytes from their beginning, each time it is called."""


class IpfsError(CascadeError):
    """An IPFS node that does not do what was asked; says what it answered."""


class IpfsAway(IpfsError):
    """The node does not answer: it is down, or hangs."""


class IpfsLacks(IpfsError):
    """The node answers, and does not have the bytes."""


class IpfsWrong(IpfsError):
    """What the node gave are not the bytes of the CID."""


def check_api_url(url: str) -> str:
    """The base of a node's RPC: http://host:port.

    Raises:
        ValueError: it is no such URL.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"ipfs_api_url is {url!r}: give the URL of a node's RPC, like http://127.0.0.1:5001")
    return url.rstrip("/").removesuffix("/api/v0")


def api_url(uri: str) -> str:
    """The base of the RPC of the node at ``ipfs://host:port``.

    Raises:
        ValueError: it is no such URI.
    """
    wrong = ValueError(f"{uri!r} names no IPFS node: give the address of its RPC, like ipfs://127.0.0.1:5001")
    parts = urlsplit(uri)
    try:
        port = parts.port
    except ValueError:
        raise wrong from None
    if parts.scheme != "ipfs" or not parts.hostname or port is None or parts.path.strip("/") or parts.query:
        raise wrong
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"http://{host}:{port}"


class Kubo:
    """A node. One session, of the event loop that first uses it; `close`, or ``async with``, ends it.

    What a node may be told twice (that is everything here) is said again when its connection is cut.

    Args:
        url: of the node's RPC.
        silence: seconds that it may say nothing; None: 20.

    Raises:
        ValueError: it is no such URL.
        ImportError: aiohttp is not installed.
    """

    def __init__(self, url: str, silence: float | None = None) -> None:
        self._base = check_api_url(url)
        self._aiohttp = _need_aiohttp()
        self._silence = SILENCE_SECONDS if silence is None else silence
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        """Of the node's RPC."""
        return self._base

    async def __aenter__(self) -> Kubo:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends the session; the next call would begin another."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    # --- bytes ----------------------------------------------------------------------------------------

    async def add(self, data: bytes, pin: str) -> str:
        """Stores and pins bytes; returns their CID.

        Args:
            data: the bytes.
            pin: the pin's name, unless somebody has it who goes before.

        Raises:
            IpfsError: the node could not, or calls them by another CID.
        """
        wanted = cid_to_text(cid_of(data))
        options = await self._pinned(wanted, pin)
        await self._add(wanted, len(data), lambda: self._whole(data), options)
        return wanted

    async def _pinned(self, cid: str, pin: str | None) -> dict[str, str]:
        """The options of `add`."""
        if pin is None or not may_take(pin, await self.pinned_as(cid)):
            return {**_ADD, "pin": "false"}
        return {**_ADD, "pin-name": pin}

    async def add_pieces(self, cid: str, size: int, pieces: Pieces, *, pin: str | None = None) -> None:
        """Stores bytes whose CID is known, as a stream.

        Args:
            cid: of the bytes.
            size: their length.
            pieces: gives them.
            pin: pins them under this name, unless somebody has the pin who goes before; None: they stay until
                the node cleans up.

        Raises:
            IpfsError: the node could not, or calls them by another CID.
        """
        options = await self._pinned(cid, pin)
        clock = asyncio.get_running_loop().time
        deadline = clock() + _seconds_for(size)
        try:
            async with asyncio.timeout(self._silence + CONNECT_SECONDS) as bound:

                async def watched() -> AsyncIterator[bytes]:
                    async for piece in pieces():
                        # It takes what it was given. (Without this a node that hangs would hold the upload.)
                        bound.reschedule(min(deadline, clock() + self._silence))
                        yield piece

                await self._add(cid, size, lambda: self._stream(watched()), options)
        except TimeoutError:
            raise self._cut(TimeoutError(f"it took nothing for {self._silence:g} s")) from None

    async def _add(self, cid: str, size: int, make: Callable[[], Any], options: dict[str, str]) -> None:
        raw = await self._call("add", options, _ANSWER_BYTES_MAX, make, seconds=_seconds_for(size))
        try:
            told = json.loads(raw.splitlines()[-1])["Hash"]
        except (ValueError, KeyError, IndexError, TypeError):
            raise IpfsError(
                f"the IPFS node at {self._base} did not say what it stored: {raw[:200]!r}"
            ) from None
        if told != cid:
            raise IpfsError(f"the IPFS node at {self._base} calls the bytes {told!r}; their CID is {cid}")

    def _whole(self, data: bytes) -> Any:
        form = self._aiohttp.FormData()
        form.add_field("file", io.BytesIO(data), filename="blob")
        return form

    def _stream(self, pieces: AsyncIterator[bytes]) -> Any:
        writer = self._aiohttp.MultipartWriter("form-data")
        part = writer.append(pieces, {"Content-Type": "application/octet-stream"})
        part.set_content_disposition("form-data", name="file", filename="blob")
        return writer

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
            raise self._wrong(cid)
        return data

    async def cat_pieces(
        self, cid: str, bytes_max: int, find: float | None = None
    ) -> AsyncGenerator[bytes, None]:
        """The bytes of a CID as a stream. The last of them come when all have been checked.

        Args:
            cid: what is wanted.
            bytes_max: more bytes are refused.
            find: how many seconds the node may look for bytes that it does not have at hand; None: as long as
                it may be silent.

        Raises:
            ValueError: it is no CID of ours.
            IpfsError: as for `cat`.
        """
        wanted = cid_from_text(cid)
        if find is not None and await self.size(cid, find) > bytes_max:
            raise self._too_much(bytes_max)
        options = {"arg": cid, "length": str(bytes_max + 1)}
        hasher = CidHasher()
        held = b""
        clock = asyncio.get_running_loop().time
        deadline = clock() + _seconds_for(bytes_max)
        response = await self._begin(options)
        try:
            async for piece in response.content.iter_chunked(_READ_BYTES):
                if hasher.size + len(piece) > bytes_max:
                    raise self._too_much(bytes_max)
                if clock() > deadline:
                    raise TimeoutError("the bytes come too slowly")
                await asyncio.to_thread(hasher.update, piece)
                if held:
                    yield held
                held = piece
        except (self._aiohttp.ClientError, OSError) as error:
            raise self._cut(error) from None
        finally:
            response.close()
        if hasher.digest() != wanted:
            raise self._wrong(cid)
        if held:
            yield held

    async def _begin(self, options: dict[str, str]) -> aiohttp.ClientResponse:
        """The response to a `cat`, when its bytes are about to come."""

        async def ask() -> aiohttp.ClientResponse:
            async with asyncio.timeout(self._silence + CONNECT_SECONDS):
                return await self._post("cat", options, None)

        response = await self._patiently(ask)
        if response.status != 200:
            async with response:
                raise self._refusal("cat", await self._text(response))
        return response

    async def size(self, cid: str, find: float) -> int:
        """The length of the file with a CID, which the node may look for that many seconds.

        Raises:
            IpfsError: the node does not have it.
        """
        options = {"arg": f"/ipfs/{cid}", "timeout": f"{max(1, round(find * 1000))}ms"}
        raw = await self._call("files/stat", options, _ANSWER_BYTES_MAX, seconds=find + FIND_GRACE_SECONDS)
        try:
            return int(json.loads(raw)["Size"])
        except (ValueError, KeyError, TypeError):
            raise IpfsError(f"the IPFS node at {self._base} did not say how long {cid} is") from None

    # --- pins -----------------------------------------------------------------------------------------

    async def pin(self, cid: str, name: str, find: float | None = None) -> None:
        """Has the node keep the bytes of a CID, which it looks for if need be.

        Raises:
            IpfsError: the node could not.
        """
        if not may_take(name, await self.pinned_as(cid)):
            return
        options = {"arg": cid, "name": name}
        if find is not None:
            options["timeout"] = f"{max(1, round(find * 1000))}ms"
        await self._call("pin/add", options, _ANSWER_BYTES_MAX)

    async def pinned_as(self, cid: str) -> str | None:
        """The name of a CID's pin, which may be empty; None: it is not pinned by itself.

        Raises:
            IpfsError: the node could not be asked.
        """
        options = {"arg": cid, "type": "recursive", "names": "true"}
        try:
            raw = await self._call("pin/ls", options, _ANSWER_BYTES_MAX)
        except IpfsError as error:
            if "not pinned" in str(error):
                return None
            raise
        try:
            return str(json.loads(raw)["Keys"][cid].get("Name", ""))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise IpfsError(f"the IPFS node at {self._base} did not say who has pinned {cid}") from None

    async def unpin(self, cid: str, name: str) -> None:
        """Lets the node forget the bytes of a CID; a pin that has another name by now stays.

        Raises:
            IpfsError: the node could not.
        """
        if await self.pinned_as(cid) != name:
            return
        try:
            await self._call("pin/rm", {"arg": cid}, _ANSWER_BYTES_MAX)
        except IpfsError as error:
            if "not pinned" not in str(error):
                raise

    async def pins(self) -> dict[str, str]:
        """What is pinned, with the names of the pins.

        Raises:
            IpfsError: the node could not be asked.
        """
        options = {"type": "recursive", "names": "true", "stream": "true"}
        raw = await self._call("pin/ls", options, _PINS_BYTES_MAX)
        try:
            told = [json.loads(line) for line in raw.splitlines()]
            return {pin["Cid"]: pin.get("Name", "") for pin in told if pin.get("Cid")}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise IpfsError(
                f"the IPFS node at {self._base} did not say what is pinned: {raw[:200]!r}"
            ) from None

    async def version(self, seconds: float = PROBE_SECONDS) -> str:
        """The node's version: a cheap way to learn whether it answers, in so many seconds.

        Raises:
            IpfsError: it does not.
        """
        raw = await self._call("version", {}, _ANSWER_BYTES_MAX, seconds=seconds)
        try:
            return str(json.loads(raw)["Version"])
        except (ValueError, KeyError, TypeError):
            raise IpfsError(f"no IPFS node answers at {self._base}: {raw[:200]!r}") from None

    async def peer_id(self) -> str:
        """The node's name among nodes.

        Raises:
            IpfsError: it does not answer.
        """
        raw = await self._call("id", {}, _ANSWER_BYTES_MAX)
        try:
            return str(json.loads(raw)["ID"])
        except (ValueError, KeyError, TypeError):
            raise IpfsError(f"no IPFS node answers at {self._base}: {raw[:200]!r}") from None

    # --- calls ----------------------------------------------------------------------------------------

    async def _call(
        self,
        command: str,
        options: dict[str, str],
        bytes_max: int,
        body: Callable[[], Any] | None = None,
        *,
        seconds: float = TOTAL_SECONDS,
    ) -> bytes:
        async def say() -> bytes:
            async with await self._post(command, options, None if body is None else body()) as response:
                if response.status != 200:
                    raise self._refusal(command, await self._text(response))
                pieces = []
                size = 0
                async for piece in response.content.iter_chunked(_READ_BYTES):
                    size += len(piece)
                    if size > bytes_max:
                        raise self._too_much(bytes_max)
                    pieces.append(piece)
                return b"".join(pieces)

        async def bounded() -> bytes:
            async with asyncio.timeout(seconds):
                return await say()

        return await self._patiently(bounded)

    async def _patiently(self, say: Callable[[], Awaitable[T]]) -> T:
        """Says it again when the connection was cut: a node closes idle ones, and restarts."""
        for number in range(LOST_TRIES):
            if number:
                await asyncio.sleep(LOST_PAUSE * 2 ** (number - 1))
            try:
                return await say()
            except self._aiohttp.ConnectionTimeoutError as error:
                raise self._cut(error) from None
            except (self._aiohttp.ClientConnectorError, TimeoutError) as error:
                raise self._cut(error) from None  # nobody is there, or it hangs: again would be no better
            except (self._aiohttp.ClientError, OSError) as error:
                lost = error
        raise self._cut(lost)

    async def _post(self, command: str, options: dict[str, str], body: Any) -> aiohttp.ClientResponse:
        if self._session is None:
            timeout = self._aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_SECONDS, sock_read=self._silence
            )
            self._session = self._aiohttp.ClientSession(timeout=timeout)
        return await self._session.post(f"{self._base}/api/v0/{command}", params=options, data=body)

    async def _text(self, response: aiohttp.ClientResponse) -> str:
        try:
            return (await response.content.read(_ANSWER_BYTES_MAX)).decode(errors="replace")
        except (self._aiohttp.ClientError, OSError):
            return ""

    def _refusal(self, command: str, text: str) -> IpfsError:
        told = _message(text)
        lacks = command in ("cat", "pin/add", "files/stat") and any(word in told for word in _LACKS)
        kind = IpfsLacks if lacks else IpfsError
        return kind(f"the IPFS node at {self._base} refused {command}: {told}")

    def _cut(self, error: BaseException) -> IpfsAway:
        return IpfsAway(f"no answer of an IPFS node at {self._base}: {_why(error)}")

    def _wrong(self, cid: str) -> IpfsWrong:
        return IpfsWrong(f"what the IPFS node at {self._base} gave for {cid} does not hash to it: refused")

    def _too_much(self, bytes_max: int) -> IpfsWrong:
        return IpfsWrong(f"the IPFS node at {self._base} gave more than {bytes_max:,} bytes")


_LACKS = ("not found", "deadline exceeded", "could not find", "context canceled")
"""How a node says that it does not have a block, or did not find one in time."""


def _seconds_for(size: int) -> float:
    return TOTAL_SECONDS + size / BYTES_PER_SECOND_MIN


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
