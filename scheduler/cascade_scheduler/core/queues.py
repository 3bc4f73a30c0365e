"""Ready nodes: one lane per run and amount class, fair between runs.

Between runs of equal priority the next node is taken from the run that has had the least time on workers so
far (stride scheduling: C. A. Waldspurger and W. E. Weihl, "Stride Scheduling: Deterministic
Proportional-Share Resource Management", MIT/LCS/TM-528, 1995). A run that was idle starts at the present
virtual time, so that it cannot save up its share.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from cascade_scheduler.core.plans import AmountClass, ready_key
from cascade_scheduler.core.run import READY, Run

__all__ = ["Lane", "Queues"]

_NODE_MASK = (1 << 32) - 1


class Lane:
    """A run's ready nodes of one amount class, as a heap of ready keys."""

    __slots__ = ("cls", "entry", "heap", "run")

    def __init__(self, run: Run, cls: AmountClass) -> None:
        self.run = run
        self.cls = cls
        self.heap: list[int] = []
        self.entry = 0
        """Number of the one entry of the class's order that counts; older ones are stale."""

    def head(self) -> int:
        """The next key; nodes that are no longer ready are thrown away. -1 when there is none."""
        heap, status = self.heap, self.run.status
        while heap:
            if status[heap[0] & _NODE_MASK] == READY:
                return heap[0]
            heappop(heap)
        return -1


class _Order:
    """The lanes of one amount class, as a heap by priority and virtual time."""

    __slots__ = ("blocked_since", "heap")

    def __init__(self) -> None:
        self.heap: list[tuple[int, float, int, int, Lane]] = []
        self.blocked_since = 0.0
        """Since when no worker had room for the class; 0.0: it is not blocked."""


class Queues:
    """All ready nodes."""

    def __init__(self) -> None:
        self._orders: dict[AmountClass, _Order] = {}
        self._entries = 0
        self._vtime = 0.0

    def push(self, run: Run, cls: AmountClass, key: int) -> None:
        """Adds one node, whose status is READY."""
        lane = self._lane(run, cls)
        heappush(lane.heap, key)
        if lane.heap[0] == key:
            self._enter(lane)

    def push_all(self, run: Run, cls: AmountClass, keys: list[int]) -> None:
        """Adds many nodes; `keys` is taken over."""
        lane = self._lane(run, cls)
        if lane.heap:
            lane.heap.extend(keys)
            heapify(lane.heap)
        else:
            lane.heap = keys  # a plan's roots are sorted, and a sorted list is a heap
        self._enter(lane)

    def push_node(self, run: Run, node: int) -> None:
        """Adds one node by its number."""
        spec = run.spec(node)
        self.push(
            run,
            AmountClass(spec.amounts, spec.asynchronous),
            ready_key(spec.priority, run.height(node), node),
        )

    def forget(self, run: Run) -> None:
        """Throws a run's ready nodes away."""
        for lane in run.lanes.values():
            assert isinstance(lane, Lane)
            lane.heap.clear()
        run.lanes.clear()

    def classes(self) -> list[AmountClass]:
        """Classes with ready nodes, in the order in which their heads would go."""
        live = [(c, o) for c, o in self._orders.items() if o.heap or o.blocked_since]
        orders = [(cls, order) for cls, order in live if self._prune(order)]
        if len(orders) > 1:
            orders.sort(key=lambda entry: entry[1].heap[0][:4])
        return [cls for cls, _ in orders]

    def head(self, cls: AmountClass) -> tuple[Run, int] | None:
        """(run, node) that goes next in a class."""
        order = self._orders.get(cls)
        if order is None or not self._prune(order):
            return None
        lane = order.heap[0][4]
        return lane.run, lane.heap[0] & _NODE_MASK

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
        return -1 if key < 0 else key & _NODE_MASK

    def pop(self, cls: AmountClass, cost: float) -> None:
        """Takes the head of a class out and charges its run `cost` seconds."""
        order = self._orders[cls]
        lane = order.heap[0][4]
        heappop(lane.heap)
        run = lane.run
        self._vtime = run.vtime
        run.vtime += cost
        heappop(order.heap)
        if lane.head() >= 0:
            self._enter(lane)
        else:
            lane.entry = 0

    def blocked(self, cls: AmountClass, now: float) -> float:
        """Notes that the class found no room; returns for how long that has been so, in seconds."""
        order = self._orders[cls]
        order.blocked_since = order.blocked_since or now
        return now - order.blocked_since

    def moved(self, cls: AmountClass) -> None:
        """Notes that the class found room."""
        self._orders[cls].blocked_since = 0.0

    def blocked_since(self) -> float:
        """Since when the class that has been blocked longest is blocked; 0.0: none is."""
        since = 0.0
        for order in self._orders.values():
            if order.blocked_since and (not since or order.blocked_since < since):
                since = order.blocked_since
        return since

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
            elif lane.head() < 0:
                lane.entry = 0
                heappop(heap)
            elif vtime < lane.run.vtime:  # the run had time in another class meanwhile
                heappop(heap)
                self._enter(lane)
            else:
                return True
        order.blocked_since = 0.0
        return False
