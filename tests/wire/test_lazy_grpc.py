"""When gRPC is loaded, and that it is loaded as we want it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def _loaded(root: Path, code: str) -> str:
    named = "('grpc', 'cascade_dist.wire.grpc_import')"
    text = f"import sys\n{code}\nprint([m for m in sys.modules if m in {named}])"
    done = subprocess.run([sys.executable, "-c", text], cwd=root, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_graphs_are_encoded_without_grpc(root: Path) -> None:
    """Executors encode the graphs that tasks return."""
    assert _loaded(root, "import cascade_dist.wire.graphs, cascade_dist.graph.build") == "[]"


def test_the_first_name_of_the_border_loads_grpc_with_our_settings(root: Path) -> None:
    assert "grpc_import" in _loaded(root, "from cascade_dist.wire import PROTOCOL_VERSION")


def test_every_name_of_the_border_is_there() -> None:
    import cascade_dist.wire as wire

    assert all(hasattr(wire, name) for name in wire.__all__)
    assert not hasattr(wire, "no_such_name")


def test_the_processes_load_grpc_with_our_settings(root: Path) -> None:
    for module in ("cascade_scheduler.__main__", "cascade_worker.__main__", "cascade_dist.client"):
        assert "grpc_import" in _loaded(root, f"import {module}")
