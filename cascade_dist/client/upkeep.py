"""What a cluster handle does to keep house: runs as files, and what nobody needs any more."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING

from cascade_dist.client.records import Garbage, decode_garbage
from cascade_dist.client.run_files import ExportedRun, ImportedRun, export_run, import_run
from cascade_dist.client.submitting import check_run_id
from cascade_dist.config import parse_duration
from cascade_dist.v1 import client_pb2 as pb

if TYPE_CHECKING:
    from cascade_dist.client.session import Session

__all__ = ["Upkeep"]

COLLECT_SECONDS = 600.0
"""A collection reads all runs that are stored."""


class Upkeep:
    """A part of `Cluster`."""

    _session: Session

    def export_run(self, run_id: str, file: str | os.PathLike[str]) -> ExportedRun:
        """Writes a stored run to one file: graph, functions, params, values, skips, events and blobs.

        The file appears whole, or not at all. It holds values unsealed: who has it can read them.

        Raises:
            RunNotFoundError: the scheduler has no such run stored.
            RunRefusedError: it stores nothing, or a blob of the run is gone.
            ConfigError: the file cannot be written.
        """
        return export_run(self._session, check_run_id(run_id), file)

    def import_run(self, file: str | os.PathLike[str], *, run_id: str | None = None) -> ImportedRun:
        """Stores a run that was exported elsewhere, so that it can be shown, fetched, and resumed.

        Workers will load its pickles: import only what you trust, as you would run a program.

        Args:
            file: made by `export_run`.
            run_id: which it is to have here; None: its own.

        Raises:
            RunFileError: the file is none, damaged, cut short, or of a newer format.
            RunConflictError: another run has the id.
            RunRefusedError: the scheduler stores nothing, or the run is too large for it.
            ConfigError: the file cannot be read.
        """
        return import_run(self._session, file, "" if run_id is None else check_run_id(run_id))

    def collect_garbage(self, *, dry_run: bool = False, blobs_idle: float | str = "1h") -> list[Garbage]:
        """Frees what nobody needs any more in the store and among the blobs; says what that was.

        Args:
            dry_run: only says so.
            blobs_idle: blobs that were used in this time stay, whoever needs them; seconds, or such as "2h".
        """
        request = pb.CollectGarbageRequest(dry_run=dry_run)
        request.blobs_idle.FromTimedelta(timedelta(seconds=parse_duration(blobs_idle)))
        answer = self._session.ask("CollectGarbage", request, timeout=COLLECT_SECONDS)
        return list(map(decode_garbage, answer.found))
