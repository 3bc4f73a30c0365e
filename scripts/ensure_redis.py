"""Make sure that there is a redis-server to test with, and print its path.

It is looked for in this order: `REDIS_SERVER`, PATH, the project's cache folder. Where there is none it is
installed from Debian's packages: with apt-get as root (or sudo without a password), and without either by
unpacking the same packages into the cache folder. No service is started, none is left on a fixed port.

`--find` only looks. Exit code 0: found (its path on stdout). 1: none, the reason on stderr; without CI set,
installing never fails: the tests that need a Redis then skip, saying why.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGES = ("redis-server", "redis-tools")
REMEDY = "install one (Debian: apt-get install redis-server) or set REDIS_SERVER to the path of one"


def cache_folder() -> Path:
    """Where the project keeps what it downloads for tests."""
    chosen = os.environ.get("CASCADE_TEST_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "cascade-dist"


def works(path: str | Path) -> bool:
    """Whether the file is a redis-server that runs here."""
    try:
        done = subprocess.run([str(path), "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and b"Redis" in done.stdout + done.stderr


def find() -> str | None:
    """The path of a redis-server that runs here, or None."""
    candidates = [os.environ.get("REDIS_SERVER"), shutil.which("redis-server"), "/usr/bin/redis-server"]
    candidates.append(str(cache_folder() / "bin" / "redis-server"))
    return next((path for path in candidates if path and works(path)), None)


def run(*command: str, cwd: Path | None = None, env: dict[str, str] | None = None) -> bool:
    """Run a command quietly; say whether it went well."""
    try:
        done = subprocess.run(
            command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        print(f"{' '.join(command[:3])}: {problem}", file=sys.stderr)
        return False
    if done.returncode:
        print(f"{' '.join(command[:3])}: {done.stderr.strip()[-300:]}", file=sys.stderr)
    return done.returncode == 0


def install_as_root() -> bool:
    """Install Debian's package, with its service kept from starting."""
    if os.geteuid() == 0:
        prefix: list[str] = []
    elif shutil.which("sudo") and run("sudo", "-n", "true"):
        prefix = ["sudo", "-n"]
    else:
        return False
    # Maintainer scripts ask policy-rc.d before they start a service; 101 means "forbidden by policy".
    # deb-systemd-invoke and invoke-rc.d both honour it. An administrator's own policy is left alone.
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        with tempfile.NamedTemporaryFile("w", suffix="-policy-rc.d", delete=False) as draft:
            draft.write("#!/bin/sh\nexit 101\n")
        ours = run(*prefix, "install", "-m", "755", draft.name, str(policy))
        Path(draft.name).unlink()
    apt = [*prefix, "env", "DEBIAN_FRONTEND=noninteractive", "SYSTEMD_OFFLINE=1", "apt-get"]
    install = (*apt, "install", "-y", "--no-install-recommends", "redis-server")
    try:
        # Old package lists are the usual reason for a first refusal.
        return run(*install) or (run(*apt, "update") and run(*install))
    finally:
        if ours:
            run(*prefix, "rm", "-f", str(policy))


def own_lists(cache: Path) -> list[str]:
    """Options that let apt work without root where the machine has no package lists (fresh containers)."""
    if run("apt-cache", "show", "redis-server"):
        return []
    places = {"Dir::State::Lists": cache / "apt" / "lists", "Dir::Cache": cache / "apt" / "cache"}
    for place in places.values():
        (place / "partial").mkdir(parents=True, exist_ok=True)
    options = [word for name, place in places.items() for word in ("-o", f"{name}={place}")]
    run("apt-get", *options, "update")
    return options


def needed_packages(options: list[str]) -> list[str]:
    """The server's packages and those that they depend on and that are not installed."""
    weak = "recommends suggests conflicts breaks replaces enhances".split()
    listed = subprocess.run(
        ["apt-cache", *options, "depends", "--recurse", *(f"--no-{kind}" for kind in weak), "redis-server"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    names = {line.strip() for line in listed.stdout.splitlines() if line and not line[0].isspace()}
    libraries = sorted(name for name in names if name.startswith("lib") and ":" not in name)
    missing = [
        name
        for name in libraries
        if subprocess.run(["dpkg", "-s", name], capture_output=True, check=False).returncode
    ]
    return [*PACKAGES, *missing]


def unpack_without_root() -> bool:
    """Unpack the packages into the cache folder, with a wrapper that finds their libraries."""
    if not (shutil.which("apt-get") and shutil.which("dpkg")):
        return False
    cache = cache_folder()
    root = cache / "redis-root"
    cache.mkdir(parents=True, exist_ok=True)
    options = own_lists(cache)
    with tempfile.TemporaryDirectory() as folder:
        for package in needed_packages(options):
            # One that cannot be had (a virtual name, say) may not be needed: `works` has the last word.
            run("apt-get", *options, "download", package, cwd=Path(folder))
        archives = sorted(Path(folder).glob("*.deb"))
        if not any(archive.name.startswith("redis-") for archive in archives):
            return False
        root.mkdir(parents=True, exist_ok=True)
        if not all(run("dpkg", "-x", str(archive), str(root)) for archive in archives):
            return False
    libraries = sorted({str(found.parent) for found in root.rglob("*.so*")})
    # redis-server is a link to redis-check-rdb's binary, which looks at the name that it was called by.
    wrapper = cache / "bin" / "redis-server"
    wrapper.parent.mkdir(parents=True, exist_ok=True)
    wrapper.write_text(
        "#!/bin/sh\n"
        f'LD_LIBRARY_PATH="{":".join(libraries)}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"\n'
        "export LD_LIBRARY_PATH\n"
        f'exec "{root}/usr/bin/redis-server" "$@"\n'
    )
    wrapper.chmod(0o755)
    return works(wrapper)


def main(argv: list[str]) -> int:
    """Find a redis-server, installing one unless `--find` is given."""
    found = find()
    if found is None and "--find" not in argv and shutil.which("apt-get"):
        print("no redis-server here: installing Debian's", file=sys.stderr)
        if install_as_root() or unpack_without_root():
            found = find()
    if found:
        print(found)
        return 0
    print(f"no redis-server: {REMEDY}", file=sys.stderr)
    return 1 if "--find" in argv or os.environ.get("CI") else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
