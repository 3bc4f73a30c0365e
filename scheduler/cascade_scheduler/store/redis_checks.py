"""What is looked at in a Redis before it is used: what makes it unfit, and what it can lose."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from redis.exceptions import AuthenticationError, NoPermissionError, RedisError, ResponseError

from cascade_scheduler.core.books import EPOCH_SHIFT
from cascade_scheduler.store.base import StoreError, StoreUnavailable
from cascade_scheduler.store.redis_batch import CONSTRAINTS_KEY, RUNS_KEY
from cascade_scheduler.store.redis_commands import BATCH_KEY, EPOCH_KEY

__all__ = ["VERSION_MIN", "check_redis", "check_url", "explain", "unusable", "warnings_of", "why_not"]

VERSION_MIN = (6, 2)
"""Older ones are no longer maintained by anybody, and are not tested with."""
_NEWER = f"use {'.'.join(map(str, VERSION_MIN))} or later (7 is tested)"
LEADER_KEY = "cascade:leader"
EPOCH_MAX = (1 << (64 - EPOCH_SHIFT)) - 1
TYPES = {
    EPOCH_KEY: "string",
    LEADER_KEY: "string",
    BATCH_KEY: "hash",
    RUNS_KEY: "zset",
    CONSTRAINTS_KEY: "hash",
}
"""Of the keys that all runs share."""
SETTINGS = (
    *("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "save"),
    *("maxmemory", "maxmemory-policy", "min-replicas-to-write"),
)

logger = logging.getLogger("cascade.scheduler")


def check_url(url: str) -> None:
    """Refuses what redis-py passes over in a URL.

    Raises:
        ValueError: its path is no number of a database.
    """
    parts = urlsplit(url)
    database = parts.path.strip("/")
    if parts.scheme != "unix" and database and not database.isdecimal():
        raise ValueError(f"{database!r} is no number of a database; write redis://HOST:PORT/0, say")


async def check_redis(client: Any, url: str) -> None:
    """Looks whether a Redis can be used, and warns by name of settings with which it can lose results.

    Raises:
        StoreError: it cannot; names the URL, the reason and the remedy.
        redis.RedisError: it cannot be asked.
    """
    await client.ping()
    facts = await _facts(client, url)
    reason = _unfit(facts, url)
    if reason is not None:
        raise StoreError(reason)
    for key, kind in TYPES.items():
        found = (await client.type(key)).decode()
        if found not in ("none", kind):
            raise StoreError(
                f"the key {key} in Redis at {url} is a {found} and not a {kind}: another program wrote it; "
                f"delete or rename it, or choose another database number in --state"
            )
    epoch: bytes = await client.get(EPOCH_KEY) or b"0"
    if not epoch.isdigit() or int(epoch) > EPOCH_MAX:
        raise StoreError(
            f"the key {EPOCH_KEY} in Redis at {url} is {epoch[:40]!r} and no number of an epoch: another "
            "program wrote it; delete it, and make sure that no scheduler leads there"
        )
    try:
        settings: dict[str, str] = {}
        for name in SETTINGS:  # a Redis before 7 tells of one at a time
            settings.update(await client.config_get(name))
    except RedisError:
        logger.info("Redis at %s does not tell its settings: whether it can lose results is unknown", url)
        return
    for text in warnings_of(settings, int(facts.get("connected_slaves", 0))):
        logger.warning("Redis at %s has %s", url, text)


async def _facts(client: Any, url: str) -> Mapping[str, Any]:
    """What the server tells of itself; nothing when it does not."""
    try:
        facts: Mapping[str, Any] = await client.info()
    except NoPermissionError:
        logger.info("Redis at %s does not tell what it is: its version and role are unknown", url)
        return {}
    return facts


def _unfit(facts: Mapping[str, Any], url: str) -> str | None:
    """Why a Redis cannot be used, with the remedy."""
    version = str(facts.get("redis_version", ""))
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if numbers and numbers < VERSION_MIN:
        return f"Redis at {url} is version {version}, which is too old: {_NEWER}"
    if facts.get("cluster_enabled"):
        return (
            f"Redis at {url} is a Redis Cluster, which cannot be used: a batch is one transaction over the "
            "keys of many runs, and a cluster parts them among nodes; use one Redis, with replicas or not"
        )
    if facts.get("role") == "slave":
        primary = f"{facts.get('master_host')}:{facts.get('master_port')}"
        return f"Redis at {url} is a read-only replica of {primary}: name its primary in --state"
    return None


def warnings_of(settings: Mapping[str, str], replicas: int) -> list[str]:
    """Settings with which results can be lost, each with what it loses and the remedy."""
    found = []
    if settings.get("appendonly", "yes") != "yes":
        if settings.get("save"):
            lost = f"what came after its last snapshot (save={settings['save']!r}) is lost"
        else:
            lost = "everything is lost (save is empty)"
        found.append(f"appendonly=no: {lost} when it restarts, and results with it; set appendonly yes")
    elif settings.get("appendfsync") == "no":
        found.append(
            "appendfsync=no: half a minute of results can be lost when its machine goes down; set "
            "appendfsync everysec (at most two seconds) or always (none)"
        )
    elif settings.get("no-appendfsync-on-rewrite") == "yes":
        found.append(
            "no-appendfsync-on-rewrite=yes: half a minute of results can be lost when its machine goes down "
            "while the file is rewritten; set no-appendfsync-on-rewrite no"
        )
    policy = settings.get("maxmemory-policy", "noeviction")
    if policy != "noeviction":
        found.append(
            f"maxmemory-policy={policy}: results can be evicted when memory is short; "
            "set maxmemory-policy noeviction"
        )
    if replicas and settings.get("min-replicas-to-write", "0") == "0":
        found.append(
            "min-replicas-to-write=0 and replicas: what a replica has not got yet is lost when it takes "
            "over; set min-replicas-to-write 1 to lose less"
        )
    return found


def unusable(error: BaseException, url: str) -> StoreError:
    """What to tell people when a Redis cannot be opened."""
    why = str(error).strip() or type(error).__name__
    if isinstance(error, AuthenticationError):
        return StoreError(f"Redis at {url} refuses us: {why}; correct user and password in --state")
    if isinstance(error, NoPermissionError):
        return StoreError(
            f"Redis at {url} does not let its user do what a scheduler does: {why}; grant it the keys "
            "cascade:* and the commands of hashes, strings, sorted sets, transactions and scripts"
        )
    if isinstance(error, ResponseError):
        if "NOAUTH" in why or "WRONGPASS" in why:
            return StoreError(f"Redis at {url} refuses us: {why}; correct user and password in --state")
        if "unknown command" in why and "HELLO" in why:
            return StoreError(f"Redis at {url} is older than version 6, which is too old: {_NEWER}")
        return StoreError(f"Redis at {url} cannot be used: {why}")
    if "CERTIFICATE_VERIFY_FAILED" in why:
        return StoreError(
            f"the certificate of Redis at {url} was not accepted: {why}; name the authority that signed it "
            "in the URL, as ?ssl_ca_certs=/path/ca.pem"
        )
    return StoreUnavailable(f"no Redis at {url}: {why}; start it, correct --state, or use --state memory://")


def why_not(error: BaseException) -> str:
    """Why Redis has not done something, with the remedy where there is one."""
    why = str(error).strip() or type(error).__name__
    if isinstance(error, ResponseError):
        if "maxmemory" in why:
            why += "; raise maxmemory, or make room"
        elif "read only replica" in why:
            why += "; it was a primary: make it one again, or start the scheduler with the new one in --state"
    return why


async def explain(error: BaseException, client: Any, url: str, keys: Sequence[str]) -> str:
    """Why something could not be done with these keys of runs, with the remedy where there is one."""
    why = why_not(error)
    if isinstance(error, ResponseError) and "WRONGTYPE" in why:
        foreign = [f"{key} is a {kind}" async for key, kind in _foreign(client, keys)]
        if foreign:
            why = f"{'; '.join(foreign)}: another program wrote it; delete or rename it"
    return f"Redis at {url}: {why}"


async def _foreign(client: Any, keys: Sequence[str]) -> AsyncIterator[tuple[str, str]]:
    """Keys of ours that hold something else: (key, what it is)."""
    for key in keys:
        try:
            kind = (await client.type(key)).decode()
        except RedisError:
            return
        if kind not in ("none", TYPES.get(key, "hash")):
            yield key, kind
