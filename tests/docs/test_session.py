"""The session of the README's "When things die", as somebody would paste it into a shell."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machine import free_port

from . import pages

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 90


@pytest.mark.integration
def test_a_run_outlives_its_scheduler(redis_binary: str, tmp_path: Path) -> None:
    [text] = [
        block.text
        for block in pages.blocks(ROOT / "README.md")
        if block.language == "sh" and "kill -9" in block.text
    ]
    for fixed in ("6390", "7420"):
        assert fixed in text
        text = text.replace(fixed, str(free_port()))
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "redis-server").symlink_to(redis_binary)
    path = os.pathsep.join([str(tools), str(Path(sys.executable).parent), os.environ["PATH"]])
    home = {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "PATH": path}
    bash = shutil.which("bash")
    assert bash, "the session is for bash"
    shell = subprocess.Popen(
        [bash, "-c", text],
        cwd=tmp_path,
        env={**os.environ, **home},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = shell.communicate(timeout=PATIENCE)
    finally:
        if shell.poll() is None:
            os.killpg(shell.pid, signal.SIGKILL)  # the whole session is ours
    logs = "".join(log.read_text() for log in sorted(tmp_path.glob("*.log")))
    assert str([x * x for x in range(12)]) in said, said + logs
    squared = sorted(int(number) for number in re.findall(r"\b(\d+) is squared", said))
    assert squared == list(range(12)), said + logs
