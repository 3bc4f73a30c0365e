"""Imports gRPC as a client wants it; imported before anything else that needs it.

gRPC reads two settings from the environment when it is imported. Left alone, its own fork handlers crash
children that a user's program forks while we are connected (they run while our thread is inside gRPC), and
its core writes lines for its developers to the user's terminal whenever a scheduler goes away. What the user
has set holds, and the environment is left as it was, for the processes that the user starts.
"""

from __future__ import annotations

import os

_WANTED = {"GRPC_ENABLE_FORK_SUPPORT": "0", "GRPC_VERBOSITY": "ERROR"}

_added = {name: value for name, value in _WANTED.items() if name not in os.environ}
os.environ.update(_added)
try:
    import grpc
    import grpc.aio  # noqa: F401
finally:
    for _name in _added:
        del os.environ[_name]
