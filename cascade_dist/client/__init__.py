"""The client: connecting to a cluster, running targets on it, following runs."""

from __future__ import annotations

import cascade_dist.wire.grpc_import  # isort: skip  # noqa: F401 - gRPC as we want it, before all others
from cascade_dist.client import aio, events
from cascade_dist.client.aio import AsyncCluster, AsyncRun
from cascade_dist.client.api import connect, put, run
from cascade_dist.client.cluster import Cluster
from cascade_dist.client.constraints import Constraint
from cascade_dist.client.handles import Run
from cascade_dist.client.records import (
    ClusterStatus,
    NodeExplanation,
    NodeInfo,
    Progress,
    RunDetails,
    RunInfo,
    RunStatus,
    WorkerInfo,
)
from cascade_dist.client.storing import BlobInfo

__all__ = [
    "AsyncCluster",
    "AsyncRun",
    "BlobInfo",
    "Cluster",
    "ClusterStatus",
    "Constraint",
    "NodeExplanation",
    "NodeInfo",
    "Progress",
    "Run",
    "RunDetails",
    "RunInfo",
    "RunStatus",
    "WorkerInfo",
    "aio",
    "connect",
    "events",
    "put",
    "run",
]
