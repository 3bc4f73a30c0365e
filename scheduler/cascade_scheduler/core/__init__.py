"""The scheduler's pure core: events in, commands out.

Rules
-----
1. Everything that is decided is decided here. No I/O, no clock, no dice, no logging, no wire messages.
2. State changes only inside `Core.turn`. An event carries what it needs, the time among it.
3. Events and commands are named tuples of plain values: a bug report is a list of events.
4. No decision iterates over a set; the same events always give the same commands.
5. `invariants.check` runs after every turn in every test.

Theory of operation
-------------------
A run is a graph in columns (`graph.Graph`) and a plan for its shape (`plans.Plan`): in-degrees, consumers,
heights. A node waits until all its edges have been answered; then `flow` says skip or go. A node that may go
stands in a ready queue of its run and amount class (`queues`); `placement` takes nodes from the queues, fair
between runs, and puts them on workers that have the amounts free, or ahead of time on workers that are busy.
A chain's next nodes go along (`followers`). Structural nodes never leave the core: they are answered as soon
as their inputs are.

A router waits for its selector, then for the route that this chose (`routers`). What only routes need is
shut until a router opens it, and skipped when nobody can need it any more (`demand`). A router, like a
skipped stage of a pipeline, has no value of its own: it is an alias of the node that has it (`picks`). Facts
that decide are observed where a value is made; where they were not, an attempt without user code observes
them (`observing`).

An attempt is one try of one node on one worker. Reports are accepted for attempts that are on the books and
for nothing else; that one rule fences off everything that comes late or twice.
"""
