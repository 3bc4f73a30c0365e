"""The pure core of the worker: events in, commands out, no I/O."""
