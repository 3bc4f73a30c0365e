"""Imports gRPC as we want it; imported before anything else that needs it.

gRPC reads some settings from the environment when it starts. Left alone, its own fork handlers crash children
that a user's program forks while we are connected (they run while our thread is inside gRPC); its core writes
lines for its developers to the user's terminal whenever a scheduler goes away; and its newer event engine
costs a fifth of a round trip's time more than the poller before it, by `python -m benchmarks latency`. What
the user has set holds, and the environment is left as it was, for the processes that the user starts.
"""

from __future__ import annotations

import os
from importlib.metadata import version

_ENGINE = "-event_engine_client,-event_engine_listener"
_ENGINE_KNOWN = ((1, 78), (1, 86))
"""From and up to these versions of gRPC; others may not know the names, and say so on stderr."""


def _wanted() -> dict[str, str]:
    wanted = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}
    major, minor = version("grpcio").split(".")[:2]
    if _ENGINE_KNOWN[0] <= (int(major), int(minor)) < _ENGINE_KNOWN[1]:
        wanted["GRPC_EXPERIMENTS"] = _ENGINE
    return wanted


_added = {name: value for name, value in _wanted().items() if name not in os.environ}
os.environ.update(_added)
try:
    import grpc
    import grpc.aio

    grpc.insecure_channel("localhost").close()  # connects to nothing, but makes gRPC read them
finally:
    for _name in _added:
        del os.environ[_name]
