"""Ready nodes: one lane per run and line, fair between runs.

A line (see `lines`) is an amount class with the pools and limits that its nodes have to do with. When limits
come or go, lanes are taken apart and put together anew; a line that may not go is otherwise never touched.

Between runs of equal priority the next node is taken from the run that has had the least time on workers so
far (stride scheduling: C. A. Waldspurger and W. E. Weihl, "Stride Scheduling: Deterministic
Proportional-Share Resource Management", MIT/LCS/TM-528, 1995). A run that was idle starts at the present
virtual time, so that it cannot save up its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from heapq import heapify, heappop, heappush

from cascade_scheduler.core import flow
from cascade_scheduler.core.limits import Limit
from cascade_scheduler.core.lines import Lines
from cascade_scheduler.core.plans import AmountClass, ready_key
from cascade_scheduler.core.run import READY, Run

__all__ = ["NODE_MASK", "Lane", "Queues"]

NODE_MASK = (1 << 32) - 1
LANES_KEPT = 8
"""Empty lanes of a run beyond so many are forgotten: amounts that are made at run time may all differ."""
NEWS_MAX = 1_000
"""So many nodes of a lane that may not go say so themselves; of more, only the one that would be next."""


class Lane:
    """A run's ready nodes of one line, as a heap of ready keys."""

    __slots__ = ("cls", "entry", "heap", "news", "run", "told")

    def __init__(self, run: Run, cls: AmountClass) -> None:
        self.run = run
        self.cls = cls
        self.heap: list[int] = []
        self.entry = 0
        """Number of the one entry of the class's order that counts; older ones are stale."""
        self.news: list[int] = []
        """Keys that came since nodes of the line were last told that they may not go; under limits only."""
        self.told: set[int] = set()
        """Nodes that wait and have said so."""

    def head(self) -> int:
        """The next key; nodes that are no longer ready are thrown away. -1 when there is none."""
        heap, status = self.heap, self.run.status
        while heap:
            if status[heap[0] & NODE_MASK] == READY:
                return heap[0]
            heappop(heap)
        return -1


class _Order:
    """The lanes of one line, as a heap by priority and virtual time."""

    __slots__ = ("blocked_since", "heap", "moved_at", "news")

    def __init__(self) -> None:
        self.heap: list[tuple[int, float, int, int, Lane]] = []
        self.news: list[Lane] = []
        """Lanes with news."""
        self.blocked_since = 0.0
        """Since when no worker had room for the class; 0.0: it is not blocked."""
        self.moved_at = 0.0
        """When a node of the line went last, while others had to wait; 0.0: none has."""


class Queues:
    """All ready nodes."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._orders: dict[AmountClass, _Order] = {}
        self._entries = 0
        self._vtime = 0.0
        self.alone: tuple[Run, AmountClass, int] | None = None
        """The one ready node of all, which stands in no line yet: (run, line, key).

        A short run and a step of a loop are one node each, and mostly nothing else waits: such a node is
        looked at in the same turn, and may go without a line having been made for it.
        """

    def push(self, run: Run, cls: AmountClass, key: int) -> None:
        """Adds one node, whose status is READY, to its line."""
        if self.alone is not None:
            self._line_up_alone()
        lane = self._lane(run, cls)
        heappush(lane.heap, key)
        if lane.heap[0] == key:
            self._enter(lane)
        if lane.told:
            lane.told.discard(key & NODE_MASK)
        if cls.limits:
            self._note(lane, (key,))

    def push_all(self, run: Run, cls: AmountClass, keys: list[int]) -> None:
        """Adds many nodes that hold the same, to their lines; `keys` is taken over."""
        if self._lines.plain:
            if len(keys) == 1 and not self._orders and self.alone is None:
                self.alone = run, cls, keys[0]
                return
            if self.alone is not None:
                self._line_up_alone()
            self._fill(run, cls, keys)
            return
        if self.alone is not None:
            self._line_up_alone()
        for limited, some in self._apart(run, keys).items():
            task = run.spec(some[0] & NODE_MASK).name
            self._fill(run, self._lines.of(run.run_id, task, cls)._replace(limits=limited), some)

    def _line_up_alone(self) -> None:
        """The one ready node is not the only one any more, or cannot go at once: it stands in its line."""
        alone, self.alone = self.alone, None
        if alone is not None:
            run, cls, key = alone
            self._fill(run, cls, [key])

    def go_alone(self, cost: float) -> None:
        """The one ready node goes; its run is charged `cost` seconds."""
        alone, self.alone = self.alone, None
        if alone is not None:
            self.charge(alone[0], cost)

    def push_node(self, run: Run, node: int) -> None:
        """Adds one node by its number."""
        spec = run.spec(node)
        self.push(run, self.line_of(run, node), ready_key(spec.priority, run.height(node), node))

    def line_of(self, run: Run, node: int) -> AmountClass:
        """The line that a ready node stands in."""
        spec = run.spec(node)
        cls = AmountClass(flow.amounts(run, node), spec.asynchronous)
        return cls if self._lines.plain else self._lines.of(run.run_id, spec.name, cls)

    def line_up_again(self) -> None:
        """Limits have come or gone: every node goes to the line that is now its own."""
        self._line_up_alone()
        self._lines.changed()
        lanes = [
            lane for order in self._orders.values() for *_, entry, lane in order.heap if entry == lane.entry
        ]
        for order in self._orders.values():
            order.heap, order.news = [], []  # how long they have waited stays known
        for lane in lanes:
            lane.entry = 0
            lane.run.lanes.pop(lane.cls, None)
        for lane in lanes:
            for limits, keys in self._apart(lane.run, lane.heap).items():
                heapify(keys)
                self._fill(lane.run, lane.cls._replace(limits=limits), keys, told=lane.told)

    def _apart(self, run: Run, keys: list[int]) -> dict[tuple[Limit, ...], list[int]]:
        """Nodes by the limits under which they stand."""
        limits = self._lines.limits
        if not limits.by_task:
            return {limits.of(run.run_id, ""): keys}
        spec_of, specs, size = run.graph.node_spec, run.graph.specs, run.graph.size
        by_spec = [limits.of(run.run_id, spec.name) for spec in specs]
        if len(set(by_spec)) == 1:
            return {by_spec[0]: keys}
        found: dict[tuple[Limit, ...], list[int]] = {}
        for key in keys:
            node = key & NODE_MASK
            under = by_spec[spec_of[node]] if node < size else limits.of(run.run_id, run.spec(node).name)
            found.setdefault(under, []).append(key)
        return found

    def _fill(
        self, run: Run, cls: AmountClass, keys: list[int], told: set[int] | frozenset[int] = frozenset()
    ) -> None:
        lane = self._lane(run, cls)
        if lane.heap:
            lane.heap.extend(keys)
            heapify(lane.heap)
        else:
            lane.heap = keys  # a plan's roots are sorted, and a sorted list is a heap
        self._enter(lane)
        if told:
            lane.told.update(key & NODE_MASK for key in keys if key & NODE_MASK in told)
        if cls.limits:
            self._note(lane, keys)

    def _note(self, lane: Lane, keys: Sequence[int]) -> None:
        if not lane.news:
            self._orders[lane.cls].news.append(lane)
        room = NEWS_MAX - len(lane.news)
        if room > 0:
            lane.news.extend(keys[:room])

    def untold(self, cls: AmountClass) -> Iterator[tuple[Run, int]]:
        """Nodes of a line that may not go, and have not said so; each is given once while it waits."""
        order = self._orders[cls]
        lanes, order.news = order.news, []
        for lane in lanes:
            news, lane.news = lane.news, []
            for key in news:
                node = key & NODE_MASK
                if lane.run.status[node] == READY and node not in lane.told:
                    lane.told.add(node)
                    yield lane.run, node
        yield from self.head_untold(cls)

    def head_untold(self, cls: AmountClass) -> Iterator[tuple[Run, int]]:
        """The node that goes next in a line, if it has not said that it waits."""
        if self._prune(self._orders[cls]):
            run = self._orders[cls].heap[0][4].run
            node = self.first_untold(run, cls)
            if node >= 0:
                yield run, node

    def first_untold(self, run: Run, cls: AmountClass) -> int:
        """The run's next ready node of a line, or -1 when there is none or it has said that it waits."""
        node = self.first_of(run, cls)
        if node >= 0:
            told = self._lane(run, cls).told
            if node not in told:
                told.add(node)
                return node
        return -1

    def everywhere(self) -> Iterator[tuple[Run, int, AmountClass]]:
        """Every node that stands somewhere, with its line; those that are no longer ready among them."""
        self._line_up_alone()
        for order in self._orders.values():
            for *_, entry, lane in order.heap:
                if entry == lane.entry:
                    for key in lane.heap:
                        yield lane.run, key & NODE_MASK, lane.cls

    def forget(self, run: Run) -> None:
        """Throws a run's ready nodes away."""
        if self.alone is not None and self.alone[0] is run:
            self.alone = None
        for lane in run.lanes.values():
            assert isinstance(lane, Lane)
            lane.heap.clear()
            lane.news.clear()
        run.lanes.clear()

    def classes(self) -> list[AmountClass]:
        """Classes with ready nodes, in the order in which their heads would go."""
        if self.alone is not None:
            self._line_up_alone()
        if not self._orders:
            return []
        orders = [(cls, order) for cls, order in self._orders.items() if self._prune(order)]
        if len(orders) != len(self._orders):
            self._orders = dict(orders)
        if len(orders) > 1:
            orders.sort(key=lambda entry: entry[1].heap[0][:4])
        return [cls for cls, _ in orders]

    def head(self, cls: AmountClass) -> tuple[Run, int] | None:
        """(run, node) that goes next in a class."""
        order = self._orders.get(cls)
        if order is None or not self._prune(order):
            return None
        lane = order.heap[0][4]
        return lane.run, lane.heap[0] & NODE_MASK

    def runs_of(self, cls: AmountClass) -> list[Run]:
        """Runs with ready nodes of a class, in the order of their submits."""
        order = self._orders.get(cls)
        if order is None:
            return []
        found = {entry[4].run.sequence: entry[4].run for entry in order.heap if entry[3] == entry[4].entry}
        return [found[sequence] for sequence in sorted(found)]

    def first_of(self, run: Run, cls: AmountClass) -> int:
        """The run's next ready node of a class, or -1."""
        lane = run.lanes.get(cls)
        if lane is None:
            return -1
        assert isinstance(lane, Lane)
        key = lane.head()
        return -1 if key < 0 else key & NODE_MASK

    def pop(self, cls: AmountClass, cost: float) -> None:
        """Takes the head of a class out and charges its run `cost` seconds."""
        order = self._orders[cls]
        lane = order.heap[0][4]
        key = heappop(lane.heap)
        run = lane.run
        if lane.told:
            lane.told.discard(key & NODE_MASK)
        self._vtime = run.vtime
        run.vtime += cost
        heappop(order.heap)
        if lane.heap and lane.head() >= 0:
            self._enter(lane)
        else:
            lane.entry = 0
            lane.news.clear()
            if len(run.lanes) > LANES_KEPT:
                run.lanes.pop(cls, None)

    def charge(self, run: Run, cost: float) -> None:
        """Charges a run `cost` seconds for a node that never stood here."""
        self._vtime = run.vtime = max(run.vtime, self._vtime)
        run.vtime += cost

    def blocked(self, cls: AmountClass, now: float) -> float:
        """Notes that the class found no room; returns for how long that has been so, in seconds."""
        order = self._orders[cls]
        order.blocked_since = order.blocked_since or now
        return now - order.blocked_since

    def moved(self, cls: AmountClass, now: float = 0.0) -> None:
        """Notes that the class found room, at a time if others of it still wait, or that it may not go."""
        order = self._orders[cls]
        order.blocked_since, order.moved_at = 0.0, now

    def still(self, cls: AmountClass, now: float) -> float:
        """For how many seconds no node of the class has gone, though some wait for room."""
        order = self._orders[cls]
        return now - (order.moved_at or order.blocked_since or now)

    def next_look(self, now: float, after: float) -> float | None:
        """When the next class will have found no room for so many seconds."""
        found: float | None = None
        for order in self._orders.values():
            for since in (order.blocked_since, order.moved_at):
                if since and since + after > now and (found is None or since + after < found):
                    found = since + after
        return found

    def _lane(self, run: Run, cls: AmountClass) -> Lane:
        lane = run.lanes.get(cls)
        if lane is None:
            lane = run.lanes[cls] = Lane(run, cls)
        assert isinstance(lane, Lane)
        return lane

    def _enter(self, lane: Lane) -> None:
        order = self._orders.get(lane.cls)
        if order is None:
            order = self._orders[lane.cls] = _Order()
        run = lane.run
        if not lane.entry and run.vtime < self._vtime:
            run.vtime = self._vtime
        self._entries += 1
        lane.entry = self._entries
        heappush(order.heap, (lane.heap[0] >> 64, run.vtime, run.sequence, lane.entry, lane))

    def _prune(self, order: _Order) -> bool:
        """Brings the entry that counts to the top; False when there is none."""
        heap = order.heap
        while heap:
            _, vtime, _, entry, lane = heap[0]
            if entry != lane.entry:
                heappop(heap)
            elif not lane.heap or lane.head() < 0:
                lane.entry = 0
                lane.news.clear()
                heappop(heap)
            elif vtime < lane.run.vtime:  # the run had time in another class meanwhile
                heappop(heap)
                self._enter(lane)
            else:
                return True
        order.blocked_since = order.moved_at = 0.0
        return False
