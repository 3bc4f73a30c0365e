"""The pickler of the client's side: by value what workers cannot import, lazy values as persistent ids."""

from __future__ import annotations

import copyreg
import pickle

import cloudpickle

from cascade_dist.codec.pickling import PROTOCOL, Dump, Sink, buffer_keeper

__all__ = ["GraphPickler"]


class GraphPickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Pickles values with lazy ones in them. Made once for many dumps: each costs less than making it.

    A lazy value refuses to be pickled, so one that has no ordinal, because the graph lacks it, raises.
    """

    def __init__(self) -> None:
        self._sink = Sink()
        self._buffers: list[memoryview] = []
        self._ordinals: dict[int, int] = {}
        self._out_of_band = True
        self._keep = buffer_keeper(self._buffers)
        self.met = False
        """The last dump met a lazy value."""
        super().__init__(self._sink, PROTOCOL, buffer_callback=self._on_buffer)
        # cloudpickle's own is a ChainMap, slow to look up for every object.
        self.dispatch_table = {**cloudpickle.Pickler._dispatch_table, **copyreg.dispatch_table}

    def run(self, value: object, ordinals: dict[int, int], out_of_band: bool) -> Dump:
        """Dumps one value. When it raises, the pickler is not to be used again.

        Args:
            value: what to pickle.
            ordinals: by the id of an object, the persistent id that stands for it.
            out_of_band: keep large buffers out of the pickle.

        Raises:
            SerializationError: there is a lazy value in it that has no ordinal.
            Exception: whatever pickling raises.
        """
        self._ordinals = ordinals
        self._out_of_band = out_of_band
        self.met = False
        self._sink.pieces.clear()
        self._buffers.clear()
        self.dump(value)
        self.clear_memo()
        self.globals_ref.clear()
        return Dump(self._sink.pieces.copy(), self._buffers.copy())

    def _on_buffer(self, buffer: pickle.PickleBuffer) -> bool:
        return self._keep(buffer) if self._out_of_band else True

    def persistent_id(self, obj: object) -> int | None:
        """The ordinal of an object that is an input of the node."""
        ordinal = self._ordinals.get(id(obj))
        if ordinal is not None:
            self.met = True
        return ordinal
