"""Make sure that there is a Kubo (an IPFS node) to test with, and print its path.

It is looked for in this order: `KUBO`, the project's cache folder, PATH (as `ipfs`). Where there is none, it
is built once, with Go, into the cache folder; that takes minutes.

`--find` only looks. Exit code 0: found (its path on stdout). 1: none, the reason on stderr; without CI set,
building never fails: the tests that need a node then skip, saying why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ensure_redis import cache_folder

VERSION = "v0.39.0"
TOOLCHAIN = "go1.25.5"
"""One of Kubo's dependencies reaches into Go's runtime and builds with no later one; Go fetches this one."""
PACKAGE = "github.com/ipfs/kubo"
BUILD_SECONDS = 3600
REMEDY = "install Go 1.21 or later and run `make kubo`, or set KUBO to the path of an ipfs binary"
GO_MOD = f"module cascade.test/kubo\n\ngo 1.25\n\nrequire {PACKAGE} {VERSION}\n"


def works(path: str | Path) -> bool:
    """Whether the file is an ipfs that runs here."""
    try:
        done = subprocess.run([str(path), "version"], capture_output=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"ipfs version" in done.stdout


def built() -> Path:
    """Where the one that is built here lies."""
    return cache_folder() / "kubo" / VERSION / "ipfs"


def find() -> str | None:
    """The path of an ipfs that runs here, or None."""
    candidates = [os.environ.get("KUBO"), str(built()), shutil.which("ipfs")]
    return next((path for path in candidates if path and works(path)), None)


def find_go() -> str | None:
    """The path of Go, or None."""
    return shutil.which("go") or shutil.which("/usr/local/go/bin/go")


def build(go: str) -> bool:
    """Build Kubo into the cache folder; say whether it went well."""
    target = built()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        # `go install PACKAGE@VERSION` also asks for the list of all versions, which not every proxy gives; a
        # module that requires the version does not. Sums are checked against Go's database either way.
        Path(folder, "go.mod").write_text(GO_MOD)
        command = [
            go,
            "build",
            "-trimpath",
            "-tags=nofuse",
            "-ldflags=-s",
            "-o",
            "ipfs",
            f"{PACKAGE}/cmd/ipfs",
        ]
        environment = {**os.environ, "GOTOOLCHAIN": TOOLCHAIN, "GOFLAGS": "-mod=mod", "GOWORK": "off"}
        try:
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
                timeout=BUILD_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as problem:
            print(f"go build: {problem}", file=sys.stderr)
            return False
        if done.returncode:
            print(f"go build: {done.stderr.strip()[-500:]}", file=sys.stderr)
            return False
        os.replace(Path(folder, "ipfs"), target)  # two that build at once leave one that is whole
    return True


def main(argv: list[str]) -> int:
    """Find an ipfs, building one unless `--find` is given."""
    found = find()
    reason = "no ipfs"
    if found is None and "--find" not in argv:
        go = find_go()
        if go is None:
            reason = "no ipfs, and no Go to build one"
        else:
            print(f"no ipfs here: building Kubo {VERSION}, which takes minutes", file=sys.stderr)
            if build(go):
                found = find()
    if found:
        print(found)
        return 0
    print(f"{reason}: {REMEDY}", file=sys.stderr)
    return 1 if "--find" in argv or os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
