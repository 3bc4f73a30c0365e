"""Nodes that wait and hold nothing while they do: for time to pass, or for a message."""

from __future__ import annotations

from typing import Any, NoReturn

from cascade_dist.language.inputs import Env, Param
from cascade_dist.language.lazy import LazyResult
from cascade_dist.language.policies import checked_number, is_text
from cascade_dist.language.task import Task, task

__all__ = ["Recv", "Wait", "checked_delay", "checked_topic", "recv", "wait"]

TOPIC_CHARS_MAX = 512


@task(name="wait")
def _wait() -> None:
    """Names the waits in messages; never called."""


@task(name="recv")
def _recv() -> None:
    """Names the recvs in messages; never called."""


class _Structural(LazyResult[Any]):
    """A node that runs no code: it may have a condition, an order and a priority, and nothing else."""

    __slots__ = ()

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError(
            f"{self.task.name} runs nothing on a worker, so only run_if and after can be chained onto it: "
            "chain the rest onto the task that comes after it"
        )

    with_retry = with_timeout = with_constraints = with_cache = passthrough = _refuse


class Wait(_Structural):
    """None, after a delay.

    Attributes:
        delay: seconds, or a lazy value that will be a number of seconds.
    """

    __slots__ = ("delay",)

    def __init__(self, delay: Any) -> None:
        super().__init__(_wait)
        self.delay = delay


class Recv(_Structural):
    """The next message of a topic.

    Attributes:
        topic: what it listens to.
        timeout: seconds, or None for no bound.
    """

    __slots__ = ("timeout", "topic")

    def __init__(self, topic: str, timeout: float | None) -> None:
        super().__init__(_recv)
        self.topic = topic
        self.timeout = timeout


def wait(delay: float | LazyResult[Any] | Param | Env) -> Wait:
    """A node that is done, with None, so many seconds after all that it comes after; it holds no slot.

    Args:
        delay: seconds, 0 or more; may be lazy.

    Raises:
        TypeError: the delay is no number.
        ValueError: it is negative, not finite or longer than ten years.
    """
    if isinstance(delay, Task):
        raise TypeError(f"wait got the task {delay.name!r}: call it, or give seconds")
    if not isinstance(delay, LazyResult | Param | Env):
        delay = checked_delay(delay)
    return Wait(delay)


def recv(topic: str, timeout: float | None = None) -> Recv:
    """A node whose value is the next message of a topic (`Cluster.send`); it holds no slot while it waits.

    Args:
        topic: what it listens to.
        timeout: seconds after which it fails with `TimeoutError`; None: no bound.

    Raises:
        TypeError: the topic is no str.
        ValueError: the topic is empty or too long, or the timeout is none.
    """
    checked_topic(topic)
    return Recv(topic, None if timeout is None else checked_delay(timeout, "timeout"))


def checked_delay(delay: object, what: str = "delay") -> float:
    """Seconds, 0 or more.

    Raises:
        TypeError: it is no number.
        ValueError: it is negative, not finite or longer than ten years.
    """
    return checked_number(what, delay, 0, 10.0 * 365 * 24 * 3600, "give seconds, 0 or more")


def checked_topic(topic: object) -> str:
    """A topic that messages can have.

    Raises:
        TypeError: it is no str.
        ValueError: it is empty, too long, or has a wildcard.
    """
    if not is_text(topic):
        raise TypeError(f"the topic is {topic!r}, a {type(topic).__name__}: give a str")
    assert isinstance(topic, str)
    if not topic or len(topic) > TOPIC_CHARS_MAX:
        raise ValueError(f"a topic has 1 to {TOPIC_CHARS_MAX} characters, and this one has {len(topic)}")
    if "#" in topic or "+" in topic:
        raise ValueError(f"the topic {topic!r} has a wildcard: a message has one topic")
    return topic
