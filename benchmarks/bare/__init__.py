"""The bare transport: the processes and pipes of a cluster with nothing in them.

Records of a fixed size go from a client through a relay to one of two workers, from there to the worker's
child, and back the same way: direct streams or gRPC streams, on uvloop over a unix socket, and a socket pair
to a child that never imports grpc. The relay counts credits and slices bytes; nobody looks into a record. So
it is what a cluster of this build could do at most.
"""

from __future__ import annotations

import struct

__all__ = ["HEAD", "LENGTH", "METHOD_CLIENT", "METHOD_WORKER", "RECORD_BYTES", "SERVICE"]

RECORD_BYTES = 64
"""About what an assignment of a small task takes on the wire."""

SERVICE = "benchmarks.Bare"
METHOD_CLIENT = "Client"
METHOD_WORKER = "Worker"

HEAD = struct.Struct("<II")
"""From the client: steps of a chain (0: no chain), records per message to a worker."""

LENGTH = struct.Struct("<I")
"""Before every frame on the socket pair."""
