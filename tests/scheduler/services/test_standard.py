"""The services that every gRPC tool knows, on a scheduler that runs: health and reflection."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cascade_dist import wire
from tests.scheduler.peers import SECONDS, scheduler

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICES = {
    "cascade_dist.v1.ClientService",
    "cascade_dist.v1.BlobService",
    "cascade_dist.v1.WorkerService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
}


async def health(channel: grpc.aio.Channel, service: str) -> int:
    """What the scheduler says of a service, without a token."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
    return int(answer.status)


async def becomes(channel: grpc.aio.Channel, service: str, status: int) -> None:
    """Waits until the scheduler says so: it looks once a second."""
    async with asyncio.timeout(SECONDS):
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError):  # at first it does not know the service
                if await health(channel, service) == status:
                    return
            await asyncio.sleep(0.05)


async def listed(channel: grpc.aio.Channel, metadata: Sequence[tuple[str, str]] = ()) -> set[str]:
    """The services that reflection names."""

    async def requests() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo(requests(), metadata=tuple(metadata), timeout=SECONDS)
    return {service.name async for answer in call for service in answer.list_services_response.service}


@pytest.mark.parametrize("token", [None, "secret"])
async def test_health_is_open_to_all(token: str | None) -> None:
    async with scheduler(token=token) as it, wire.open_channel(it.address) as channel:
        for service in ("", "live", "ready", "cascade.Scheduler"):
            await becomes(channel, service, SERVING)
        it.hub.draining = True
        await becomes(channel, "ready", NOT_SERVING)
        assert await health(channel, "") == SERVING, "it lives, if it takes nothing new"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health(channel, "no.such.Service")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_names_the_services() -> None:
    async with scheduler() as it, wire.open_channel(it.address) as channel:
        assert await listed(channel) == SERVICES


async def test_reflection_wants_the_token() -> None:
    async with scheduler(token="secret") as it, wire.open_channel(it.address) as channel:
        for metadata in ((), wire.TokenAuth("wrong").metadata):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listed(channel, metadata)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert await listed(channel, wire.TokenAuth("secret").metadata) == SERVICES
