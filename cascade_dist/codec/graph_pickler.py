"""The pickler of the client's side: by value what workers cannot import, lazy values as persistent ids."""

from __future__ import annotations

import copyreg
import pickle
from typing import Any

import cloudpickle

from cascade_dist.codec.pickling import PROTOCOL, Dump, Sink, buffer_keeper
from cascade_dist.language.stored import Stored

__all__ = ["ByValuePickler", "GraphPickler"]


class ByValuePickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles values without lazy ones in them, which refuse. Made once for many dumps.

    Each dump costs less than making a pickler. One in which something raised is not to be used again.
    """

    def __init__(self) -> None:
        self._sink = Sink()
        self._buffers: list[memoryview] = []
        self._out_of_band = True
        self._keep = buffer_keeper(self._buffers)
        self.handles: dict[int, Stored] = {}
        """Handles of stored objects that the last dump met, by their ids."""
        # cloudpickle's own is a ChainMap, slow to look up for every object. It is read when the base is made.
        self.dispatch_table = {
            **cloudpickle.Pickler._dispatch_table,
            **copyreg.dispatch_table,
            Stored: self._reduce_handle,
        }
        super().__init__(self._sink, PROTOCOL, buffer_callback=self._on_buffer)

    def run(self, value: object, *, out_of_band: bool = False) -> Dump:
        """Dumps one value.

        Args:
            value: what to pickle.
            out_of_band: keep large buffers out of the pickle.

        Raises:
            SerializationError: there is a lazy value in it.
            Exception: whatever pickling raises.
        """
        self._out_of_band = out_of_band
        self._sink.pieces.clear()
        self._buffers.clear()
        if self.handles:
            self.handles = {}
        self.dump(value)
        self.clear_memo()
        self.globals_ref.clear()
        return Dump(self._sink.pieces.copy(), self._buffers.copy())

    def _reduce_handle(self, handle: Stored) -> tuple[Any, ...]:
        self.handles[id(handle)] = handle
        return handle.__reduce__()

    def _on_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        return self._keep(buffer) if self._out_of_band else True


class GraphPickler(ByValuePickler):
    """Pickles values with lazy ones in them: those that have an ordinal become persistent ids.

    Slower than its base, because it is asked about every object.
    """

    def __init__(self) -> None:
        self.ordinals: dict[int, int] = {}
        """By the id of an object, the persistent id that stands for it."""
        self.met = False
        """A lazy value was met since this was last set."""
        super().__init__()

    def persistent_id(self, obj: object) -> int | None:
        """The ordinal of an object that is an input of the node."""
        ordinal = self.ordinals.get(id(obj))
        if ordinal is not None:
            self.met = True
        return ordinal
