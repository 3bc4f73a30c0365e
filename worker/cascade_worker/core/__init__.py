"""The worker's pure core: events in, commands out.

Rules
-----
1. Everything that is decided is decided here. No I/O, no clock, no dice, no logging, no wire messages.
2. State changes only inside `Core.turn`. An event carries what it needs; the time comes with the turn.
3. Events and commands are named tuples of plain values: a bug report is a list of events.
4. No decision iterates over a set; the same events always give the same commands.
5. `invariants.check` runs after every turn in every test.

Theory of operation
-------------------
The scheduler assigns attempts. One that it has charged starts at once (`ready`, once its inputs are here);
one that was sent ahead stands in `queue` and is charged in order as amounts come free. That rule is the same
on both sides, so a worker starts its next task without asking and the scheduler's books stay right. What
follows another attempt stands in no line until that has returned the value which it needs (`followers`).

An attempt is WAITING → RUNNING → FINISHED, and is forgotten when the scheduler's mark covers the message that
reported it. Two side rooms: SENT, written to an executor behind the attempt that it runs (only very short
ones; they can be got back until the executor takes them); STORING, returned, with its value on the way to
the blob store.

Every attempt ends once: with what its executor said, or with its executor's death, or unstarted. Stopping is
a wish on the attempt (`Wanted`): the executor is told, and killed when the grace is over.

Nothing here depends on being connected. Reports that were not acknowledged are sent again in the next
session, to the scheduler that says `keep`.
"""

from cascade_worker.core.endings import ProtocolError
from cascade_worker.core.machine import Core
from cascade_worker.core.state import Limits, Phase

__all__ = ["Core", "Limits", "Phase", "ProtocolError"]
