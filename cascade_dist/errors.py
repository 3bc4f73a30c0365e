"""Every error that users meet, as one tree.

An error names the thing and the remedy. Errors that have a counterpart in the standard library are also
that: code written for `concurrent.futures` or `asyncio` catches them.
"""

from __future__ import annotations

__all__ = [
    "AmountError",
    "ArgumentSerializationError",
    "AuthenticationError",
    "BlobNotFoundError",
    "CascadeError",
    "ClusterClosedError",
    "ConfigError",
    "ConnectionFailedError",
    "CycleError",
    "DependencyMissingError",
    "GraphError",
    "GraphTooLargeError",
    "ParamMissingError",
    "RemoteTaskError",
    "RemoteTraceback",
    "ResourceNotFoundError",
    "ResultMissingError",
    "ResultSerializationError",
    "RouteNotFoundError",
    "RunConflictError",
    "RunFileError",
    "RunLostError",
    "RunNotFoundError",
    "RunRefusedError",
    "SerializationError",
    "StateBackendError",
    "TaskCancelled",
    "TaskLoadError",
    "TaskLostError",
    "TaskTimeoutError",
    "VersionMismatchError",
]


class CascadeError(Exception):
    """Base of all errors of Cascade Dist."""


class ConfigError(CascadeError, ValueError):
    """A setting or a text such as ``30s`` that cannot be read; names where it stands and the remedy."""


class GraphError(CascadeError, ValueError):
    """A target from which no graph can be made."""


class CycleError(GraphError):
    """Nodes that wait for each other; the message names the cycle node by node."""


class ParamMissingError(GraphError):
    """Params without a value and without a default; the message names all of them."""


class ResourceNotFoundError(GraphError, LookupError):
    """A resource that is injected and not registered; names it, who wants it, and those that are known."""


class DependencyMissingError(CascadeError):
    """A value that was asked for was never made, because the node that makes it was skipped.

    Attributes:
        task_id: name of the task that needed the value, or name or id of the run.
        arg_name: name of the argument it was needed for; of a run: ``target``.
        dependency_id: name of the node that is to blame: a false condition, or what was skipped before.
        reason: why the value was not made, such as ``ConditionFalse``.
    """

    def __init__(self, task_id: str, arg_name: str, dependency_id: str, reason: str = "") -> None:
        self.task_id = task_id
        self.arg_name = arg_name
        self.dependency_id = dependency_id
        self.reason = reason
        because = f"{reason}, because of {dependency_id!r}" if reason else f"because of {dependency_id!r}"
        super().__init__(f"{task_id!r} has no value for {arg_name!r}: it was skipped ({because})")

    def __reduce__(self) -> tuple[type[DependencyMissingError], tuple[str, str, str, str]]:
        return type(self), (self.task_id, self.arg_name, self.dependency_id, self.reason)


class RouteNotFoundError(CascadeError, ValueError):
    """A router's selector has a value that is none of the keys; names the value and the keys."""


class SerializationError(CascadeError, TypeError):
    """Something that cannot travel between processes."""


class ArgumentSerializationError(SerializationError):
    """An argument that cannot be pickled; names the task and the argument."""


class ResultSerializationError(SerializationError):
    """A result that cannot be pickled; names the task and the type."""


class StoreFullError(CascadeError, OSError):
    """A value for which the object store of a worker, or the blob store, has no room; names it, places and
    bounds."""


class TaskLoadError(CascadeError, ImportError):
    """A worker could not load a task's function or arguments, such as when it lacks the module."""


class TaskTimeoutError(CascadeError, TimeoutError):
    """An attempt took longer than its timeout and was stopped."""


class TaskLostError(CascadeError, RuntimeError):
    """A task whose executors or workers died again and again."""


class TaskCancelled(BaseException):  # like asyncio.CancelledError: no error, and not to be swallowed
    """Raised inside a sync task that is being stopped, so that its ``finally`` blocks run."""


class RemoteTaskError(CascadeError, RuntimeError):
    """Stands for an exception that cannot be pickled; carries its type and message as text."""


class RemoteTraceback(CascadeError):
    """The traceback of a task as text; the ``__cause__`` of what `Run.result` raises."""

    def __init__(self, text: str) -> None:
        self.text = text
        super().__init__(text)

    def __str__(self) -> str:
        return f"\n{self.text}"


class AmountError(CascadeError, ValueError):
    """An amount that no worker can ever give; names the amount and the most there is."""


class ConnectionFailedError(CascadeError, ConnectionError):
    """No scheduler could be reached at the address, or it is another service."""


class AuthenticationError(CascadeError, PermissionError):
    """The token is missing or wrong."""


class VersionMismatchError(CascadeError, RuntimeError):
    """Python or the protocol differ too much between two processes; names both versions."""


class RunRefusedError(CascadeError, RuntimeError):
    """The scheduler did not take a run; says why."""


class RunConflictError(RunRefusedError, ValueError):
    """The run id is in use for another target or other params; names what differs."""


class GraphTooLargeError(RunRefusedError, ValueError):
    """The graph is above a bound; names the bound."""


class RunNotFoundError(RunRefusedError, KeyError):
    """The scheduler knows no run of this id."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class ResultMissingError(CascadeError, KeyError):
    """The run succeeded, but its target has no value; a fault of the cluster, not of the tasks."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class RunLostError(CascadeError, ConnectionError):
    """The scheduler went away and did not come back in time, or came back without the run."""


class RunFileError(CascadeError, ValueError):
    """A file that is no run file, or is damaged, cut short or of a newer format; names it."""


class BlobNotFoundError(CascadeError, LookupError):
    """A blob, such as an object that was put, that the cluster does not have; names it."""


class StateBackendError(CascadeError, RuntimeError):
    """A state backend of the user's own failed, or cannot be given a value; names the backend's call."""


class ClusterClosedError(CascadeError, RuntimeError):
    """The cluster handle was closed."""
