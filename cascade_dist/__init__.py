"""Distributed compute for Python: ``import cascade_dist as cs``.

Describe work as a lazy graph of functions, then run it: ``cs.run(target)``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from cascade_dist._version import __version__
from cascade_dist.context import AttemptInfo, current_attempt
from cascade_dist.errors import (
    AmountError,
    ArgumentSerializationError,
    AuthenticationError,
    BlobNotFoundError,
    CascadeError,
    ClusterClosedError,
    ConfigError,
    ConnectionFailedError,
    CycleError,
    DependencyMissingError,
    GraphError,
    GraphTooLargeError,
    ParamMissingError,
    RemoteTaskError,
    RemoteTraceback,
    ResourceNotFoundError,
    ResultMissingError,
    ResultSerializationError,
    RouteNotFoundError,
    RunConflictError,
    RunFileError,
    RunLostError,
    RunNotFoundError,
    RunRefusedError,
    SerializationError,
    StateBackendError,
    StoreFullError,
    TaskCancelled,
    TaskLoadError,
    TaskLostError,
    TaskTimeoutError,
    VersionMismatchError,
)
from cascade_dist.language.flow import pipeline, sequence
from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.jump import Jump, bind, select_jump
from cascade_dist.language.lazy import LazyResult, MappedLazyResult, unmapped
from cascade_dist.language.policies import RetryPolicy
from cascade_dist.language.resources import Resource, inject, override_resource, resource
from cascade_dist.language.router import Router
from cascade_dist.language.stored import Stored
from cascade_dist.language.structural import recv, wait
from cascade_dist.language.task import Task, task

if TYPE_CHECKING:
    from cascade_dist import connectors
    from cascade_dist.caching import (
        MISS,
        CacheBackend,
        CacheHit,
        CachePolicy,
        FileExistenceCache,
        InMemoryCacheBackend,
        IpfsCacheBackend,
        RedisCacheBackend,
        ResultCache,
        SizeTieredCache,
    )
    from cascade_dist.client import Cluster, Run, aio, connect, events, put, run
    from cascade_dist.client.bus import MessageBus
    from cascade_dist.codec.graph_json import from_json, to_json
    from cascade_dist.graph.dry_run import dry_run
    from cascade_dist.graph.visualize import visualize
    from cascade_dist.library.command import create_cli
    from cascade_dist.library.shell import shell
    from cascade_dist.library.subflow import subflow
    from cascade_dist.state import InMemoryStateBackend, RedisStateBackend, StateBackend

__all__ = [
    "from_json",
    "to_json",
    "AmountError",
    "ArgumentSerializationError",
    "AttemptInfo",
    "AuthenticationError",
    "BlobNotFoundError",
    "CacheBackend",
    "CacheHit",
    "CachePolicy",
    "CascadeError",
    "Cluster",
    "ClusterClosedError",
    "ConfigError",
    "ConnectionFailedError",
    "CycleError",
    "DependencyMissingError",
    "Env",
    "FileExistenceCache",
    "GraphError",
    "GraphTooLargeError",
    "InMemoryCacheBackend",
    "InMemoryStateBackend",
    "IpfsCacheBackend",
    "Jump",
    "LazyResult",
    "MISS",
    "MappedLazyResult",
    "MessageBus",
    "Param",
    "ParamMissingError",
    "RedisCacheBackend",
    "RedisStateBackend",
    "RemoteTaskError",
    "RemoteTraceback",
    "Resource",
    "ResourceNotFoundError",
    "ResultCache",
    "ResultMissingError",
    "ResultSerializationError",
    "RetryPolicy",
    "RouteNotFoundError",
    "Router",
    "Run",
    "RunConflictError",
    "RunFileError",
    "RunLostError",
    "RunNotFoundError",
    "RunRefusedError",
    "SerializationError",
    "StoreFullError",
    "SizeTieredCache",
    "StateBackend",
    "StateBackendError",
    "Stored",
    "Task",
    "TaskCancelled",
    "TaskLoadError",
    "TaskLostError",
    "TaskTimeoutError",
    "VersionMismatchError",
    "__version__",
    "aio",
    "bind",
    "connect",
    "connectors",
    "create_cli",
    "current_attempt",
    "dry_run",
    "events",
    "inject",
    "override_resource",
    "pipeline",
    "put",
    "resource",
    "recv",
    "run",
    "select_jump",
    "sequence",
    "shell",
    "subflow",
    "task",
    "unmapped",
    "visualize",
    "wait",
]

# What is loaded at first use. The client brings gRPC with it, which a task on a worker has no use for.
_AT_FIRST_USE = {
    "MISS": "cascade_dist.caching",
    "CacheBackend": "cascade_dist.caching",
    "CacheHit": "cascade_dist.caching",
    "CachePolicy": "cascade_dist.caching",
    "FileExistenceCache": "cascade_dist.caching",
    "InMemoryCacheBackend": "cascade_dist.caching",
    "InMemoryStateBackend": "cascade_dist.state",
    "IpfsCacheBackend": "cascade_dist.caching",
    "RedisCacheBackend": "cascade_dist.caching",
    "RedisStateBackend": "cascade_dist.state",
    "ResultCache": "cascade_dist.caching",
    "SizeTieredCache": "cascade_dist.caching",
    "StateBackend": "cascade_dist.state",
    "Cluster": "cascade_dist.client",
    "MessageBus": "cascade_dist.client.bus",
    "Run": "cascade_dist.client",
    "connect": "cascade_dist.client",
    "create_cli": "cascade_dist.library.command",
    "dry_run": "cascade_dist.graph.dry_run",
    "from_json": "cascade_dist.codec.graph_json",
    "put": "cascade_dist.client",
    "run": "cascade_dist.client",
    "shell": "cascade_dist.library.shell",
    "subflow": "cascade_dist.library.subflow",
    "to_json": "cascade_dist.codec.graph_json",
    "visualize": "cascade_dist.graph.visualize",
}


def __getattr__(name: str) -> Any:
    if name in ("aio", "events"):
        return importlib.import_module(f"cascade_dist.client.{name}")
    if name == "connectors":
        return importlib.import_module("cascade_dist.connectors")
    if name in _AT_FIRST_USE:
        found = getattr(importlib.import_module(_AT_FIRST_USE[name]), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
