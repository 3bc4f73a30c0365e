"""Executors load the codec, and are forked: nothing in it may bring gRPC along."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_codec_loads_no_grpc(root: Path) -> None:
    modules = [
        f"cascade_dist.codec.{path.stem}" for path in (root / "cascade_dist" / "codec").glob("[a-z]*.py")
    ]
    assert len(modules) > 8
    code = f"import sys, {', '.join(modules)}\nprint({{'grpc', 'google.protobuf'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
