"""`connect` and `run`: how users come by a cluster."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cascade_dist import context
from cascade_dist.client.cluster import Cluster
from cascade_dist.client.link import Endpoint
from cascade_dist.client.local import CLIENT_STATE, START_SECONDS, LocalCluster
from cascade_dist.client.submitting import check_run_id, checked_pools, new_run_id
from cascade_dist.config import Settings, load_settings
from cascade_dist.errors import CascadeError
from cascade_dist.state.source import StateFactory, StateSource, check_state
from cascade_dist.wire import TokenAuth, client_credentials, parse_addresses, read_token

if TYPE_CHECKING:
    import asyncio

    from cascade_dist.client.bus import MessageBus
    from cascade_dist.connectors.base import Connector
    from cascade_dist.language.stored import Stored

__all__ = ["connect", "put", "run"]

LOCAL = "local"
"""The address that always means a private cluster."""

_lock = threading.Lock()
_default: Cluster | None = None
_by_state: dict[str, Cluster] = {}
"""The private clusters that were started for a state, by its URI."""


def connect(
    address: str | None = None,
    *,
    token: str | None = None,
    token_file: str | os.PathLike[str] | None = None,
    tls_ca: str | os.PathLike[str] | None = None,
    tls_cert: str | os.PathLike[str] | None = None,
    tls_key: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    slots: int | str | None = None,
    system_resources: Mapping[str, float] | None = None,
    logs: bool = True,
    progress: bool | None = None,
    connect_timeout: float | str | None = None,
    reconnect_timeout: float | str | None = None,
    state_backend: StateSource | None = None,
) -> Cluster:
    """Connects to a cluster, or starts a private one.

    What is not given comes from the environment (``CASCADE_ADDRESS``, ``CASCADE_TOKEN_FILE``, …), then from
    the configuration files, then from defaults.

    Args:
        address: ``host:port`` of the scheduler, several with commas between (the first that answers is
            taken). ``"local"``, or None where no address is configured: a private cluster on this machine,
            which ends with the handle, and with this process at the latest.
        token: the cluster's token.
        token_file: a file that holds it.
        tls_ca: PEM file with the authorities to trust; turns TLS on.
        tls_cert: PEM file with the client's certificate, for mutual TLS.
        tls_key: PEM file with its private key.
        workers: of a private cluster, if it comes to one; 2.
        slots: of each worker of a private cluster, or ``"auto"``; 1.
        system_resources: amounts that the nodes of one run share, for each run that says nothing else; see
            `Cluster.submit`.
        logs: print what tasks print.
        progress: show progress of runs; None: on a terminal.
        connect_timeout: seconds, or a text such as ``"5s"``.
        reconnect_timeout: how long a lost scheduler is looked for; 60 seconds.
        state_backend: of a private cluster: where the state of its runs is kept; as for `run`, but a backend
            that is an object is that of all runs.

    Raises:
        TypeError: `state_backend` is none, or is for a cluster with an address.
        ConnectionFailedError: no scheduler there; says what is, if anything.
        AuthenticationError: wrong or missing token.
        VersionMismatchError: the scheduler's versions do not go with ours.
        ConfigError: a setting cannot be read.
    """
    settings = load_settings(
        "client",
        {
            "address": None if address == LOCAL else address,
            "token": token,
            "token_file": token_file,
            "tls_ca": tls_ca,
            "tls_cert": tls_cert,
            "tls_key": tls_key,
            "workers": workers,
            "slots": slots,
            "connect_timeout": connect_timeout,
            "reconnect_timeout": reconnect_timeout,
        },
    )
    checked_pools(system_resources)  # before processes are started for it
    options = {"logs": logs, "progress": progress, "system_resources": system_resources}
    state = None if state_backend is None else check_state(state_backend)
    if address == LOCAL or settings["address"] is None:
        given = {"token": token, "token_file": token_file, "tls_ca": tls_ca, "tls_cert": tls_cert}
        if wrong := [name for name, value in given.items() if value is not None]:
            raise TypeError(
                f"{wrong[0]}= is for a cluster with an address, and none is given: a private cluster makes "
                "its own token. Pass the address, or set CASCADE_ADDRESS"
            )
        return _start_private(settings, options, state)
    if state is not None:
        raise _state_of_another(f"the address {settings['address']!r} names one that runs")
    if address is not None and (workers is not None or slots is not None):
        raise TypeError(
            f"workers= and slots= are for private clusters, but the address {address!r} names one that "
            "runs; leave them out, or pass address='local'"
        )
    return _connect_to(settings, options)


def _connect_to(settings: Settings, options: Mapping[str, Any]) -> Cluster:
    addresses = parse_addresses(settings["address"])
    credentials = client_credentials(
        settings["tls_ca"],
        settings["tls_cert"],
        settings["tls_key"],
        tls=any(address.tls for address in addresses),
    )
    endpoint = Endpoint(addresses, TokenAuth(_token(settings)).metadata, credentials)
    return Cluster(
        endpoint,
        connect_timeout=settings["connect_timeout"],
        reconnect_timeout=settings["reconnect_timeout"],
        **options,
    )


def _token(settings: Settings) -> str | None:
    """The token; of the two ways to give one, that of the stronger origin."""
    order = ["argument", "CASCADE_TOKEN", "CASCADE_TOKEN_FILE"]

    def rank(name: str) -> int:
        origin = settings.origin(name)
        return order.index(origin) if origin in order else len(order)

    token, token_file = settings["token"], settings["token_file"]
    if rank("token") < rank("token_file"):
        token_file = None
    elif rank("token_file") < rank("token"):
        token = None
    return read_token(token, token_file, {})


def _start_private(
    settings: Settings, options: Mapping[str, Any], state: str | StateFactory | None = None
) -> Cluster:
    if context.in_executor:
        raise CascadeError(
            "a private cluster cannot be started where a worker runs or loads tasks: cs.run or cs.connect "
            "was called in a task, or at the top of a module that a worker imports. Put the call under "
            '`if __name__ == "__main__":`, or give connect() the address of a cluster'
        )
    uri = state if state is None or isinstance(state, str) else CLIENT_STATE
    local = LocalCluster(workers=settings["workers"], slots=settings["slots"], state=uri)
    local.start()
    try:
        token = read_token(None, local.token_file, {})
        addresses = [there._replace(socket=local.socket) for there in parse_addresses(local.address)]
        endpoint = Endpoint(addresses, TokenAuth(token).metadata, is_gone=local.broken)
        cluster = Cluster(
            endpoint,
            connect_timeout=settings["connect_timeout"],
            reconnect_timeout=settings["reconnect_timeout"],
            local=local,
            **options,
        )
    except BaseException:
        local.stop()
        raise
    try:
        if uri == CLIENT_STATE:
            cluster._keep_state(None if isinstance(state, str) else state)
        _wait_for_workers(cluster, local)
    except BaseException:
        cluster.close()
        raise
    return cluster


def _wait_for_workers(cluster: Cluster, local: LocalCluster) -> None:
    """Waits until all workers are there: a closed cluster judges amounts by those it has."""
    deadline = time.monotonic() + START_SECONDS
    while (there := cluster.status().workers) < local.workers:
        failure = local.failure()
        if failure is None and time.monotonic() > deadline:
            failure = f"{there} of {local.workers} workers were there after {START_SECONDS:g} s"
        if failure is not None:
            raise CascadeError(f"the private cluster did not start: {failure}")
        time.sleep(0.01)


def run(
    target: Any,
    *,
    params: Mapping[str, Any] | None = None,
    cluster: Cluster | None = None,
    run_id: str | None = None,
    resume: bool = False,
    name: str | None = None,
    on_failure: str = "cancel",
    strict_params: bool = False,
    system_resources: Mapping[str, float] | None = None,
    progress: bool | None = None,
    logs: bool | None = None,
    timeout: float | None = None,
    bus: MessageBus | None = None,
    log_level: str | None = None,
    log_format: str = "human",
    connector: Connector | None = None,
    state_backend: StateSource | None = None,
) -> Any:
    """Runs a target and gives its value: `Cluster.run` on a cluster that need not be there yet.

    Without `cluster`, the one of ``CASCADE_ADDRESS`` is used, else a private one, which is started at the
    first call, shared by all later ones and ended with the process.

    Args:
        state_backend: where the private cluster keeps the results and skips of the run. A URI such as
            ``redis://localhost:6379/0``: there, where `RedisStateBackend` finds it; there is one such cluster
            for each URI, and a Redis database has one scheduler at a time, the last one that was started. A
            `StateBackend`, or a function that gets the run's id and returns one (or None): it is given values
            as they come, in this process; nothing can be resumed from it. None: memory. The other arguments
            are those of `Cluster.run`.

    Raises:
        Exception: what a task raised, with its remote traceback as cause; else as `connect`, `Cluster.run`.
        TypeError: `state_backend` is none of these, or the cluster runs already.
        ValueError: `state_backend` has another scheme than redis, rediss or unix.
        ImportError: redis is not installed.
        StateBackendError: the state backend raised; names its call. The run is stopped.
    """
    chosen, factory = choose_cluster(cluster, state_backend)
    if factory is not None:
        run_id = expect_state(chosen, factory, run_id)
    return chosen.run(
        target,
        params=params,
        run_id=run_id,
        resume=resume,
        name=name,
        on_failure=on_failure,
        strict_params=strict_params,
        system_resources=system_resources,
        progress=progress,
        logs=logs,
        timeout=timeout,
        bus=bus,
        log_level=log_level,
        log_format=log_format,
        connector=connector,
    )


def put(obj: Any, *, cluster: Cluster | None = None, pin: bool = False) -> Stored:
    """Stores an object in the cluster that `run` would use, and gives a handle for it; see `Cluster.put`.

    Raises:
        Exception: as `Cluster.put`, `connect`.
    """
    return choose_cluster(cluster, None)[0].put(obj, pin=pin)


def choose_cluster(cluster: Cluster | None, state_backend: Any) -> tuple[Cluster, StateFactory | None]:
    """The cluster that a run is for, and what makes the run's own backend.

    It is the one given, that of a state, or the default one.

    Raises:
        TypeError: a state for a cluster that runs already, or one that is none; or it is no cluster.
        Exception: as `connect`.
    """
    if cluster is not None and not hasattr(cluster, "submit"):
        kind = type(cluster).__name__
        raise TypeError(f"cluster is {cluster!r}, a {kind}: give what cs.connect(…) returns, or nothing")
    if state_backend is None:
        return (_default_cluster() if cluster is None else cluster), None
    state = check_state(state_backend)
    if cluster is not None:
        raise _state_of_another("cluster= is given")
    if isinstance(state, str):
        return _state_cluster(state), None
    return _state_cluster(CLIENT_STATE), state


def expect_state(
    cluster: Cluster,
    factory: StateFactory,
    run_id: str | None,
    loop: asyncio.AbstractEventLoop | None = None,
) -> str:
    """Makes the backend of a run that is about to be submitted; returns the run's id.

    Args:
        cluster: that of `choose_cluster`.
        factory: makes the backend.
        run_id: as the user gave it.
        loop: where the backend's methods are called; None: in a thread of the cluster handle.

    Raises:
        TypeError: the factory returned no backend.
        ValueError: no such run id.
        Exception: what the factory raised.
    """
    run_id = new_run_id() if run_id is None else check_run_id(run_id)
    assert cluster._keeper is not None
    cluster._keeper.expect(run_id, factory, loop)
    return run_id


def _state_of_another(why: str) -> TypeError:
    return TypeError(
        f"state_backend= is for a private cluster, and {why}: where a cluster keeps its state is said when "
        "it is started, by `cascade-scheduler --state URL`"
    )


def _default_cluster() -> Cluster:
    global _default
    with _lock:
        if _default is None or not _default.usable:
            _let_go(_default)
            _default = None
            _default = connect()
        return _default


def _state_cluster(uri: str) -> Cluster:
    settings = load_settings("client", {})
    if settings["address"] is not None:
        raise _state_of_another(f"{settings.origin('address')} names one that runs")
    with _lock:
        found = _by_state.get(uri)
        if found is None or not found.usable:
            _let_go(_by_state.pop(uri, None))
            found = _by_state[uri] = _start_private(settings, {}, uri)
        return found


def _let_go(cluster: Cluster | None) -> None:
    # One with runs under way, of other threads, closes itself when they have ended.
    if cluster is not None and not cluster._session.live_runs():
        cluster.close()


def _forget_after_fork() -> None:
    global _default, _lock
    _lock = threading.Lock()
    _default = None
    _by_state.clear()


os.register_at_fork(after_in_child=_forget_after_fork)
