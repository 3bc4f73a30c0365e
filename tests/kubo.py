"""Real IPFS nodes for tests: on loopback, knowing no other node but those that a test joins."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

__all__ = ["KuboNode", "find_ipfs"]

ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 60.0


def find_ipfs() -> tuple[str, str]:
    """The path of an ipfs, or "" and why there is none."""
    command = [sys.executable, str(ROOT / "scripts" / "ensure_kubo.py"), "--find"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return ("", found.stderr.strip()) if found.returncode else (found.stdout.strip(), "")


class KuboNode:
    """A node in a directory of its own, which keeps its identity and blocks from one start to the next."""

    def __init__(
        self, ipfs: str, home: Path, settings: dict[str, Any], *, online: bool = False, profile: str = ""
    ) -> None:
        self._ipfs = ipfs
        self._home = home
        self._online = online
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        # This profile has it listen on free ports of the loopback; which, it writes into the file `api`.
        self._run("init", "--profile=test")
        if profile:
            self._run("config", "profile", "apply", profile)
        for name, value in settings.items():
            self.configure(name, value)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "IPFS_PATH": str(self._home), "IPFS_TELEMETRY": "off"}

    def _run(self, *arguments: str) -> str:
        command = [self._ipfs, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def configure(self, name: str, value: Any) -> None:
        """Sets a setting; for the next start."""
        self._run("config", "--json", name, json.dumps(value))

    def start(self) -> None:
        """Starts the daemon; returns when it answers. At the address of the last start, if there was one."""
        if self.url:
            self.configure("Addresses.API", f"/ip4/127.0.0.1/tcp/{self.url.rpartition(':')[2]}")
        (self._home / "api").unlink(missing_ok=True)
        command = [self._ipfs, "daemon", *([] if self._online else ["--offline"])]
        self._process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert time.monotonic() < deadline, "the IPFS node did not start in time"
            assert self._process.poll() is None, f"the IPFS node ended with {self._process.returncode}"
            time.sleep(0.02)

    def _answers(self) -> bool:
        file = self._home / "api"
        if not file.exists() or not (text := file.read_text().strip()):
            return False
        port = int(text.rpartition("/")[2])
        self.url = f"http://127.0.0.1:{port}"
        with socket.socket() as probe:
            probe.settimeout(1)
            return probe.connect_ex(("127.0.0.1", port)) == 0

    @property
    def uri(self) -> str:
        """As flags take it."""
        return self.url.replace("http://", "ipfs://")

    def join(self, other: KuboNode) -> None:
        """Connects to another node."""
        address = json.loads(other._run("id"))["Addresses"][0]
        self._run("swarm", "connect", address)

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the daemon."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(20)

    def stop(self) -> None:
        """Ends it, in whatever state it is."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
