"""The worker's stream to the scheduler: connect, say hello, read and write, and again after it breaks."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from typing import Protocol

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from cascade_dist.v1 import worker_pb2
from cascade_dist.wire import Address, TokenAuth, check_versions, open_channel
from cascade_dist.wire.convert import seconds
from cascade_dist.wire.direct import Call, open_stream, pump
from cascade_worker.writer import StreamWriter

__all__ = ["FatalError", "SchedulerLink", "SessionPeer"]

log = logging.getLogger("cascade.worker")

_WELCOME_TIMEOUT = 10.0
_BACKOFF_FIRST = 0.1
_BACKOFF_MAX = 5.0
_QUIET_PERIODS = 2
"""After so many heartbeats that did not come, a worker with several addresses looks whether another leads."""
_PROBE_SECONDS = 2.0
_LAST_TRY = 0.5
"""What the last attempt before the death timeout gets, at least."""

_FATAL = {
    grpc.StatusCode.UNAUTHENTICATED: "the scheduler at {address} refuses the token: {details}",
    grpc.StatusCode.PERMISSION_DENIED: "the scheduler at {address} refuses this worker: {details}",
    grpc.StatusCode.FAILED_PRECONDITION: "the scheduler at {address} refuses this worker: {details}",
    grpc.StatusCode.UNIMPLEMENTED: "what answers at {address} is no Cascade scheduler ({details}): "
    "give the address of a cascade-scheduler",
}

_CONNECT = "/cascade_dist.v1.WorkerService/Connect"


def _told(error: grpc.aio.AioRpcError) -> str:
    """Why a call failed, for people."""
    details = error.details() or ""
    if "http1.x server" in details:
        return "what listens there is a web server, not a cascade-scheduler"
    if "parsing HTTP/2" in details:
        return "what listens there does not speak gRPC, so it is no cascade-scheduler"
    return f"{error.code().name}: {details}"


class FatalError(Exception):
    """The worker cannot work; the text says why and what to do."""


class _OldLeaderError(Exception):
    """A scheduler has answered whose epoch is over."""


class SessionPeer(Protocol):
    """Who decides what is said, and takes what comes."""

    @property
    def streaming(self) -> bool:
        """More reports are about to come."""

    def hello(self) -> worker_pb2.Hello:
        """The first message."""

    def connected(self, welcome: worker_pb2.Welcome, response: worker_pb2.ConnectResponse) -> None:
        """The scheduler has answered."""

    def received(self, response: worker_pb2.ConnectResponse) -> None:
        """A further message came."""

    def next_message(self, force: bool) -> worker_pb2.ConnectRequest | None:
        """What to say now, if anything; with `force` at least a heartbeat."""

    def disconnected(self) -> None:
        """The session is over."""


class SchedulerLink:
    """One session after the other.

    Args:
        peer: who speaks.
        addresses: tried in turn.
        auth: the token.
        credentials: for TLS.
        death_timeout: seconds without a scheduler after which the worker gives up; None: never.
    """

    def __init__(
        self,
        peer: SessionPeer,
        addresses: tuple[Address, ...],
        auth: TokenAuth,
        credentials: grpc.ChannelCredentials | None,
        death_timeout: float | None,
    ) -> None:
        self._peer = peer
        self._addresses = addresses
        self._auth = auth
        self._credentials = credentials
        self._death_timeout = death_timeout
        self._channel: grpc.aio.Channel | None = None
        self._online = asyncio.Event()
        self._writer: StreamWriter | None = None
        self._call: Call | None = None
        self._broken = ""
        """Why this side ended the session."""
        self._last_read = 0.0
        self._epoch = 0
        """The highest that a scheduler has welcomed this worker with."""
        self._next = 0
        """Which address is tried next."""
        self.address = ""
        """Of the scheduler that answered last."""

    def poke(self) -> None:
        """There is something to say; what happens during a write goes into the next one."""
        if self._writer is not None:
            self._writer.poke()

    def end_session(self, reason: str) -> None:
        """Ends the session; the next one begins with everything that is held."""
        if self._call is not None:
            self._broken = reason
            self._call.cancel()

    async def channel(self) -> grpc.aio.Channel:
        """The channel to the scheduler; waits while there is none, but not longer than a minute.

        Raises:
            TimeoutError: there still is none.
        """
        await asyncio.wait_for(self._online.wait(), 60)
        assert self._channel is not None
        return self._channel

    async def run(self) -> None:
        """Keeps a session going until it is cancelled.

        Raises:
            FatalError: trying again cannot help, or the scheduler was away for too long.
        """
        failures = 0
        reason = ""
        last_seen = time.monotonic()
        while True:
            address = self._addresses[self._next % len(self._addresses)]
            self._next += 1
            before, reason = reason, "the stream was closed"
            connected = False
            patience = min(_WELCOME_TIMEOUT, max(_LAST_TRY, self._left(last_seen)))
            try:
                connected = await self._session(address, patience)
            except grpc.aio.AioRpcError as error:
                self._refuse_if_fatal(error, address)
                reason = _told(error)
                connected = self._online.is_set()
            except _OldLeaderError as error:
                reason = str(error)
            except TimeoutError:
                reason = f"no answer within {patience:.3g} s: it is another service, or packets are dropped"
                if before and patience < _WELCOME_TIMEOUT:
                    reason = before  # a short attempt says less than the full one before it
            except asyncio.CancelledError:
                if not self._broken:
                    raise
                reason, self._broken = self._broken, ""
                connected = self._online.is_set()
            finally:
                await self._close()
            now = time.monotonic()
            if connected:
                failures, last_seen = 0, now
                log.warning("lost the scheduler at %s (%s); connecting again", address, reason)
            elif failures == 0 or failures % 10 == 0:
                log.warning("no scheduler at %s (%s); trying again", address, reason)
            failures += 1
            left = self._left(last_seen)
            if left <= 0:
                raise FatalError(
                    f"no scheduler at {address} for {now - last_seen:.0f} s ({reason}): start it, correct "
                    "the address, or give a longer --death-timeout"
                )
            # Jitter keeps a thousand workers from coming back in the same instant.
            backoff = min(_BACKOFF_FIRST * 2 ** min(failures - 1, 10), _BACKOFF_MAX)
            await asyncio.sleep(min(left, random.uniform(0.5, 1) * backoff))

    def _left(self, last_seen: float) -> float:
        """Seconds until the worker gives up."""
        if self._death_timeout is None:
            return math.inf
        return self._death_timeout - (time.monotonic() - last_seen)

    def _refuse_if_fatal(self, error: grpc.aio.AioRpcError, address: Address) -> None:
        text = _FATAL.get(error.code())
        if text is not None:
            raise FatalError(text.format(address=address, details=error.details())) from error

    async def _close(self) -> None:
        if self._online.is_set():
            self._online.clear()
            self._peer.disconnected()
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()

    async def _session(self, address: Address, patience: float) -> bool:
        """One session, from Hello to its end. Returns whether there was one.

        Raises:
            TimeoutError: no welcome came in `patience` seconds.
        """
        channel = self._channel = open_channel(address, self._credentials)
        metadata, parse = self._auth.metadata, worker_pb2.ConnectResponse.FromString
        call = await open_stream(address, channel, _CONNECT, metadata, parse)
        try:
            return await self._begin(call, address, patience)
        finally:
            call.cancel()  # a direct stream does not end with the channel

    async def _begin(self, call: Call, address: Address, patience: float) -> bool:
        """A session on a stream that is open."""
        hello = worker_pb2.ConnectRequest(sequence=1, hello=self._peer.hello())
        try:
            async with asyncio.timeout(patience):
                await call.write(hello.SerializeToString())
                response = await call.read()
        except asyncio.InvalidStateError:  # the call ended under the write; reading says how
            response = await call.read()
        if response is grpc.aio.EOF:
            return False
        if response.WhichOneof("body") == "goodbye":
            self._said_goodbye(response.goodbye, address)
            return False
        if response.WhichOneof("body") != "welcome":
            raise FatalError(f"what answers at {address} does not speak this protocol: it said no welcome")
        welcome = response.welcome
        error, warnings = check_versions(welcome.versions, "the scheduler")
        if error:
            raise FatalError(error)
        self._check_epoch(welcome, address)
        for warning in [*warnings, *welcome.warnings]:
            log.warning("%s", warning)
        self.address = str(address)
        self._peer.connected(welcome, response)
        self._online.set()
        self._last_read = time.monotonic()
        await self._talk(call, welcome, address)
        return True

    def _check_epoch(self, welcome: worker_pb2.Welcome, address: Address) -> None:
        """Refuses a scheduler that led before the one that this worker has met: it has not noticed yet."""
        if not welcome.epochs_grow:
            self._epoch = 0
            return
        if welcome.epoch < self._epoch:
            raise _OldLeaderError(
                f"the scheduler at {address} is in epoch {welcome.epoch}, which is over: another one leads "
                f"in epoch {self._epoch}"
            )
        self._epoch = welcome.epoch

    def _said_goodbye(self, goodbye: worker_pb2.Goodbye, address: Address) -> None:
        log.info("the scheduler at %s says good-bye: %s", address, goodbye.reason)
        if not goodbye.reconnect:
            raise FatalError(f"the scheduler at {address} sent this worker away: {goodbye.reason}")

    async def _talk(self, call: Call, welcome: worker_pb2.Welcome, address: Address) -> None:
        period = max(0.05, seconds(welcome.heartbeat_period) or 1.0)
        silence = seconds(welcome.heartbeat_timeout) or 10 * period
        self._call = call
        # When the stream breaks under a write, the reader says why.
        writer = self._writer = StreamWriter(
            lambda message: call.write(message.SerializeToString()),
            self._peer.next_message,
            lambda: self._peer.streaming,
            lambda error: None,
        )
        watch = asyncio.create_task(self._watch(writer, period, silence))
        writer.poke()

        def take(response: worker_pb2.ConnectResponse) -> bool:
            self._last_read = time.monotonic()
            if response.WhichOneof("body") == "goodbye":
                self._said_goodbye(response.goodbye, address)
                return True
            self._peer.received(response)
            return False

        try:
            await pump(call, take)
        finally:
            self._call = self._writer = None
            writer.close()
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)

    async def _watch(self, writer: StreamWriter, period: float, silence: float) -> None:
        """Sends heartbeats, and ends a call that has gone silent."""
        while True:
            await asyncio.sleep(min(period, silence / 4))
            now = time.monotonic()
            quiet = now - self._last_read
            if quiet > silence:
                self.end_session(f"it was silent for {silence:g} s")
                return
            if quiet > _QUIET_PERIODS * period and (leader := await self._other_leader()) is not None:
                self.end_session(f"it was silent for {quiet:.0f} s, and the scheduler at {leader} leads")
                return
            if now - writer.last_write >= period * 0.9:
                writer.heartbeat()

    async def _other_leader(self) -> Address | None:
        """Of several addresses, one whose scheduler says that it leads; it is tried next."""
        for number, address in enumerate(self._addresses):
            if str(address) == self.address:
                continue
            async with open_channel(address, self._credentials) as channel:
                stub = health_pb2_grpc.HealthStub(channel)
                request = health_pb2.HealthCheckRequest(service="cascade.Scheduler")
                with contextlib.suppress(grpc.aio.AioRpcError):
                    answer = await stub.Check(request, timeout=_PROBE_SECONDS)
                    if answer.status == health_pb2.HealthCheckResponse.SERVING:
                        self._next = number
                        return address
        return None
