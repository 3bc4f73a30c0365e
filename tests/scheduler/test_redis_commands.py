"""Batches as commands, and which keys get a new time to live."""

from __future__ import annotations

import hiredis
import pytest

from cascade_scheduler.store.redis_commands import AGAIN_SECONDS, Commands, Lifetimes, Packed, key_of


def sent(packed: Packed) -> list[list[bytes]]:
    """Commands as Redis reads them: it takes them for arrays of texts."""
    reader = hiredis.Reader(notEnoughData=None)
    reader.feed(packed.data)
    found = list(iter(reader.gets, None))
    assert len(found) == packed.length
    return found


def expiring(packed: Packed) -> list[str]:
    """The parts of the run that are given a new time."""
    keys = [command[1].decode() for command in sent(packed) if command[0] == b"EXPIRE"]
    return [key.rpartition(":")[2] for key in keys]


def landed(lifetimes: Lifetimes, commands: Commands, now: float) -> list[str]:
    """Lands a batch; returns the parts that are given a new time."""
    packed = commands.packed(lifetimes, now)
    lifetimes.landed(commands, packed.given, now)
    return expiring(packed)


def writing(*parts: str, run_id: str = "r") -> Commands:
    """A batch that writes to parts of a run."""
    commands = Commands(100)
    for part in parts:
        commands.set(run_id, part, "field", "value")
    return commands


def beginning(*parts: str) -> Commands:
    """The batch with which a run begins."""
    commands = Commands(100)
    commands.begin("r", ("results", "meta", "graph"))
    for part in parts:
        commands.set("r", part, "field", "value")
    return commands


def test_writes_to_one_hash_are_one_command() -> None:
    commands = Commands(100)
    for field in ("a", "b"):
        commands.set("r", "results", field, b"1")
        commands.set("other", "results", field, b"2")
    commands.do("ZADD", "cascade:runs", 1.5, "r")
    results, others = key_of("r", "results").encode(), key_of("other", "results").encode()
    assert sent(commands.packed(Lifetimes(86_400), 0.0)) == [
        [b"HSET", results, b"a", b"1", b"b", b"1"],
        [b"HSET", others, b"a", b"2", b"b", b"2"],
        [b"ZADD", b"cascade:runs", b"1.5", b"r"],
        [b"EXPIRE", results, b"100"],
        [b"EXPIRE", others, b"100"],
    ]


def test_what_is_set_after_a_deletion_stays_behind_it() -> None:
    commands = Commands(100)
    commands.set("r", "results", "old", 1)
    commands.delete("r", ("results", "facts"))
    commands.set("r", "results", "new", 2)
    results, facts = key_of("r", "results").encode(), key_of("r", "facts").encode()
    assert sent(commands.packed(Lifetimes(86_400), 0.0)) == [
        [b"HSET", results, b"old", b"1"],
        [b"DEL", results, facts],
        [b"HSET", results, b"new", b"2"],
        [b"EXPIRE", results, b"100"],
    ]


@pytest.mark.parametrize("run_id", ["r", "a run ☃", "0" * 200])
def test_a_run_begins_where_nothing_is_left_of_it(run_id: str) -> None:
    commands = Commands(100)
    commands.begin(run_id, ("results", "meta"))
    commands.set(run_id, "meta", "state", "running")
    commands.begin("other" + run_id, ("results", "meta"))
    results, meta = key_of(run_id, "results").encode(), key_of(run_id, "meta").encode()
    others = [key_of("other" + run_id, part).encode() for part in ("results", "meta")]
    assert sent(commands.packed(Lifetimes(86_400), 0.0)) == [
        [b"DEL", results, meta],
        [b"HSET", meta, b"state", b"running"],
        [b"DEL", *others],
        [b"EXPIRE", meta, b"100"],
    ]


@pytest.mark.parametrize("early", [True, False])
def test_a_run_that_begins_once_more_leaves_nothing_of_the_first_time(early: bool) -> None:
    lifetimes, commands = Lifetimes(86_400), Commands(100)
    for _ in range(2):
        commands.begin("r", ("results", "meta"))
        commands.set("r", "results", "a", "1")
        if early:
            commands.pack_early()
    results, meta = key_of("r", "results").encode(), key_of("r", "meta").encode()
    once = [[b"DEL", results, meta], [b"HSET", results, b"a", b"1"], [b"EXPIRE", results, b"100"]]
    assert sent(commands.packed(lifetimes, 0.0)) == ([*once, *once] if early else [*once[:2], *once])
    assert landed(lifetimes, commands, 0.0).count("results") == 1 + early
    assert landed(lifetimes, writing("results", "meta"), 1.0) == ["meta"]


def test_what_is_left_out_is_not_sent() -> None:
    commands = Commands(100)
    commands.set("r", "attempts", "0", "1 1 w")
    commands.set("r", "meta", "state", "succeeded")
    commands.leave_out("r", "attempts")
    meta = key_of("r", "meta").encode()
    assert sent(commands.packed(Lifetimes(86_400), 0.0)) == [
        [b"HSET", meta, b"state", b"succeeded"],
        [b"EXPIRE", meta, b"100"],
    ]


def test_what_is_packed_early_stays_as_it_is_but_for_attempts() -> None:
    commands = Commands(100)
    commands.set("r", "meta", "state", "running")
    commands.set("r", "attempts", "0", "1 1 w")
    commands.pack_early()
    commands.set("r", "meta", "state", "succeeded")
    meta, attempts = key_of("r", "meta").encode(), key_of("r", "attempts").encode()
    running, succeeded = [b"HSET", meta, b"state", b"running"], [b"HSET", meta, b"state", b"succeeded"]
    assert sent(commands.packed(Lifetimes(86_400), 0.0)) == [
        running,
        [b"HSET", attempts, b"0", b"1 1 w"],
        succeeded,
        [b"EXPIRE", meta, b"100"],
        [b"EXPIRE", attempts, b"100"],
    ]
    commands.leave_out("r", "attempts")
    assert sent(commands.packed(Lifetimes(86_400), 0.0)) == [
        running,
        succeeded,
        [b"EXPIRE", meta, b"100"],
    ]


def test_of_a_run_that_begins_the_time_of_its_keys_is_packed_early_too() -> None:
    lifetimes, commands = Lifetimes(86_400), beginning("meta", "attempts")
    commands.pack_early()
    commands.pack_early()
    commands.set("r", "meta", "state", "running")
    commands.set("r", "results", "a", "1")
    packed = commands.packed(lifetimes, 0.0)
    assert expiring(packed) == ["meta", "attempts", "results"]
    assert set(packed.given["r"]) == {"meta", "attempts", "results"}
    commands.delete("r", ("meta",))
    commands.set("r", "meta", "state", "failed")
    assert expiring(commands.packed(lifetimes, 0.0)) == ["meta", "attempts", "results", "meta"]


def test_a_key_is_given_a_new_time_now_and_then() -> None:
    lifetimes = Lifetimes(86_400)
    assert landed(lifetimes, beginning("meta", "graph"), 0.0) == ["meta", "graph"]
    assert landed(lifetimes, writing("meta", "results"), 1.0) == ["results"], "this one is new"
    assert landed(lifetimes, writing("meta", "results"), AGAIN_SECONDS) == []
    assert landed(lifetimes, writing("meta", "results"), AGAIN_SECONDS + 0.5) == ["meta"]


def test_a_key_that_was_deleted_is_new() -> None:
    lifetimes = Lifetimes(86_400)
    landed(lifetimes, beginning("meta", "results"), 0.0)
    within = Commands(100)
    within.delete("r", ("results",))
    within.set("r", "results", "a", 1)
    assert landed(lifetimes, within, 1.0) == ["results"]
    before = Commands(100)
    before.delete("r", ("results",))
    assert landed(lifetimes, before, 2.0) == []
    assert landed(lifetimes, writing("results"), 3.0) == ["results"]


def test_all_keys_of_a_run_are_renewed_when_that_is_said() -> None:
    lifetimes = Lifetimes(86_400)
    landed(lifetimes, beginning("meta", "graph"), 0.0)
    commands = writing("results")
    commands.renew("r", ("results", "skipped", "graph", "meta"))
    assert landed(lifetimes, commands, 1.0) == ["results", "graph", "meta"], "nothing was skipped"
    commands = writing("graph")
    commands.renew("r", ("results", "skipped", "graph", "meta"), always=False)
    assert landed(lifetimes, commands, 2.0) == []
    commands = writing("graph")
    commands.renew("r", ("results", "skipped", "graph", "meta"), always=False)
    assert landed(lifetimes, commands, 100.0) == ["graph", "results", "meta"], "a minute ago is long ago"


def test_of_a_run_that_others_began_all_may_be_there() -> None:
    lifetimes = Lifetimes(86_400)
    for now in (0.0, 1.0):
        commands = writing("results")
        commands.renew("r", ("results", "skipped"))
        assert landed(lifetimes, commands, now) == ["results", "skipped"]


def test_of_a_run_that_is_over_nothing_is_remembered() -> None:
    lifetimes = Lifetimes(86_400)
    landed(lifetimes, beginning("meta"), 0.0)
    ending = writing("meta")
    ending.over["r"] = None
    landed(lifetimes, ending, 1.0)
    assert landed(lifetimes, writing("meta"), 2.0) == ["meta"]


def test_a_batch_that_did_not_land_has_given_nothing() -> None:
    lifetimes = Lifetimes(86_400)
    landed(lifetimes, beginning("meta"), 0.0)
    writing("results").packed(lifetimes, 1.0)
    assert landed(lifetimes, writing("results"), 2.0) == ["results"]


def test_keys_that_live_for_a_moment_are_renewed_more_often() -> None:
    lifetimes = Lifetimes(5)
    landed(lifetimes, beginning("meta"), 0.0)
    assert landed(lifetimes, writing("meta"), 0.4) == []
    assert landed(lifetimes, writing("meta"), 0.6) == ["meta"]
