"""How far the leased loops of a worker have come, until the scheduler knows all of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from cascade_dist.v1 import worker_pb2

__all__ = ["LeaseBook", "LeaseNews"]

_BYTES_PER_MESSAGE = 256 * 1024


class LeaseNews(NamedTuple):
    """Steps beyond the first, and the step that runs."""

    iterations: int
    args: bytes
    node_id: bytes


class LeaseBook:
    """The last word of every leased loop, kept as long as its attempt is: a new session has it again."""

    def __init__(self) -> None:
        self._last: dict[int, LeaseNews] = {}
        self._untold: dict[int, None] = {}

    @property
    def has_news(self) -> bool:
        """There is something that this session has not told."""
        return bool(self._untold)

    def note(self, attempt: int, news: LeaseNews) -> None:
        """A loop has come so far."""
        self._last[attempt] = news
        self._untold[attempt] = None

    def forget(self, attempts: Iterable[int]) -> None:
        """These attempts are over, and the scheduler knows."""
        if not self._last:
            return
        for attempt in attempts:
            self._last.pop(attempt, None)
            self._untold.pop(attempt, None)

    def tell_again(self) -> None:
        """A session begins, to which nothing was told."""
        self._untold = dict.fromkeys(self._last)

    def write(self, reports: worker_pb2.Reports) -> None:
        """Adds what is to be told, as much as fits."""
        room = _BYTES_PER_MESSAGE
        while self._untold and room > 0:
            attempt = next(iter(self._untold))
            del self._untold[attempt]
            news = self._last[attempt]
            room -= len(news.args)
            reports.leases.add(
                attempt=attempt, iterations=news.iterations, args=news.args, node_id=news.node_id
            )
