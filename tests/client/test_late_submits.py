"""Submits that come when the session has just ended: each is told so, none waits for ever."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

import cascade_dist as cs
from cascade_dist.client.link import Link
from cascade_dist.client.session import Session
from cascade_dist.wire import Address
from tests.client.fake import FakeScheduler


@cs.task
def add(a: int) -> int:
    return a + 1


def test_a_submit_while_the_handle_is_closed_by_another_thread(
    cluster: cs.Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = cluster._session
    cluster.run(add(0))
    assert session.link is not None
    monkeypatch.setattr(session.link, "send_now", lambda message: True)  # a direct stream takes it still
    monkeypatch.setattr(session, "check_there", lambda: setattr(session, "closed", True))
    run = cluster.submit(add(1))
    with pytest.raises(cs.CascadeError, match="closed"):
        run.result(5)
    session.closed = False


def test_a_submit_while_the_session_is_given_up(
    scheduler: FakeScheduler, monkeypatch: pytest.MonkeyPatch
) -> None:
    with cs.connect(scheduler.address, reconnect_timeout=0.1) as cluster:
        cluster.run(add(0))
        session = cluster._session
        scheduler.stop()
        deadline = time.monotonic() + 10
        while session.up and time.monotonic() < deadline:
            time.sleep(0.01)
        really, looks = Session.up.fget, iter([True])  # type: ignore[attr-defined]
        monkeypatch.setattr(Session, "up", property(lambda self: next(looks, False) or really(self)))
        run = cluster.submit(add(1))
        with pytest.raises(cs.CascadeError, match="lost"):
            run.result(5)


async def test_a_handshake_that_is_given_up_closes_its_direct_stream(tmp_path: Path) -> None:
    address = Address("127.0.0.1", 1, socket=str(tmp_path / "s"))
    heard: asyncio.Queue[bytes] = asyncio.Queue()

    async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.put_nowait(await reader.read(1))
        heard.put_nowait(await reader.read())  # to the end
        writer.close()

    server = await asyncio.start_unix_server(listen, address.direct)
    opening = asyncio.ensure_future(Link.open(address, None, (), 30.0))
    await heard.get()
    opening.cancel()
    await asyncio.wait_for(heard.get(), 10)
    with pytest.raises(asyncio.CancelledError):
        await opening
    server.close()
    await server.wait_closed()
