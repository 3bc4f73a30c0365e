import datetime

from cascade_dist.v1 import client_pb2 as _client_pb2
from cascade_dist.v1 import graph_pb2 as _graph_pb2
from cascade_dist.v1 import value_pb2 as _value_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class HeldState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    HELD_STATE_UNSPECIFIED: _ClassVar[HeldState]
    HELD_STATE_WAITING: _ClassVar[HeldState]
    HELD_STATE_RUNNING: _ClassVar[HeldState]
    HELD_STATE_FINISHED: _ClassVar[HeldState]

class Observe(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    OBSERVE_UNSPECIFIED: _ClassVar[Observe]
    OBSERVE_TRUTH: _ClassVar[Observe]
    OBSERVE_SPLIT: _ClassVar[Observe]
    OBSERVE_ROUTE: _ClassVar[Observe]
    OBSERVE_AMOUNT: _ClassVar[Observe]
    OBSERVE_DIGEST: _ClassVar[Observe]

class FailureKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    FAILURE_KIND_UNSPECIFIED: _ClassVar[FailureKind]
    FAILURE_KIND_RAISED: _ClassVar[FailureKind]
    FAILURE_KIND_TIMEOUT: _ClassVar[FailureKind]
    FAILURE_KIND_UNLOADABLE: _ClassVar[FailureKind]
    FAILURE_KIND_INPUT_LOST: _ClassVar[FailureKind]
HELD_STATE_UNSPECIFIED: HeldState
HELD_STATE_WAITING: HeldState
HELD_STATE_RUNNING: HeldState
HELD_STATE_FINISHED: HeldState
OBSERVE_UNSPECIFIED: Observe
OBSERVE_TRUTH: Observe
OBSERVE_SPLIT: Observe
OBSERVE_ROUTE: Observe
OBSERVE_AMOUNT: Observe
OBSERVE_DIGEST: Observe
FAILURE_KIND_UNSPECIFIED: FailureKind
FAILURE_KIND_RAISED: FailureKind
FAILURE_KIND_TIMEOUT: FailureKind
FAILURE_KIND_UNLOADABLE: FailureKind
FAILURE_KIND_INPUT_LOST: FailureKind

class ConnectRequest(_message.Message):
    __slots__ = ("sequence", "acked_through", "hello", "reports", "heartbeat")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKED_THROUGH_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    acked_through: int
    hello: Hello
    reports: Reports
    heartbeat: WorkerHeartbeat
    def __init__(self, sequence: _Optional[int] = ..., acked_through: _Optional[int] = ..., hello: _Optional[_Union[Hello, _Mapping]] = ..., reports: _Optional[_Union[Reports, _Mapping]] = ..., heartbeat: _Optional[_Union[WorkerHeartbeat, _Mapping]] = ...) -> None: ...

class ConnectResponse(_message.Message):
    __slots__ = ("sequence", "acked_through", "welcome", "work", "heartbeat", "goodbye")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    ACKED_THROUGH_FIELD_NUMBER: _ClassVar[int]
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    WORK_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_FIELD_NUMBER: _ClassVar[int]
    GOODBYE_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    acked_through: int
    welcome: Welcome
    work: Work
    heartbeat: SchedulerHeartbeat
    goodbye: Goodbye
    def __init__(self, sequence: _Optional[int] = ..., acked_through: _Optional[int] = ..., welcome: _Optional[_Union[Welcome, _Mapping]] = ..., work: _Optional[_Union[Work, _Mapping]] = ..., heartbeat: _Optional[_Union[SchedulerHeartbeat, _Mapping]] = ..., goodbye: _Optional[_Union[Goodbye, _Mapping]] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("worker_id", "name", "versions", "amounts", "async_credits", "ahead_credits", "object_address", "host", "pid", "held", "objects", "draining", "sync_credits")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    ASYNC_CREDITS_FIELD_NUMBER: _ClassVar[int]
    AHEAD_CREDITS_FIELD_NUMBER: _ClassVar[int]
    OBJECT_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    SYNC_CREDITS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    name: str
    versions: _client_pb2.Versions
    amounts: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Amount]
    async_credits: int
    ahead_credits: int
    object_address: str
    host: str
    pid: int
    held: _containers.RepeatedCompositeFieldContainer[HeldAttempt]
    objects: _containers.RepeatedScalarFieldContainer[int]
    draining: bool
    sync_credits: int
    def __init__(self, worker_id: _Optional[str] = ..., name: _Optional[str] = ..., versions: _Optional[_Union[_client_pb2.Versions, _Mapping]] = ..., amounts: _Optional[_Iterable[_Union[_graph_pb2.Amount, _Mapping]]] = ..., async_credits: _Optional[int] = ..., ahead_credits: _Optional[int] = ..., object_address: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., held: _Optional[_Iterable[_Union[HeldAttempt, _Mapping]]] = ..., objects: _Optional[_Iterable[int]] = ..., draining: bool = ..., sync_credits: _Optional[int] = ...) -> None: ...

class HeldAttempt(_message.Message):
    __slots__ = ("attempt", "state")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    state: HeldState
    def __init__(self, attempt: _Optional[int] = ..., state: _Optional[_Union[HeldState, str]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("session_id", "versions", "epoch", "heartbeat_period", "heartbeat_timeout", "inline_bytes_max", "cancel_grace", "keep", "drop", "known", "release", "warnings", "fast_loops", "ipfs", "seal_key", "epochs_grow")
    SESSION_ID_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_PERIOD_FIELD_NUMBER: _ClassVar[int]
    HEARTBEAT_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    INLINE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    CANCEL_GRACE_FIELD_NUMBER: _ClassVar[int]
    KEEP_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    FAST_LOOPS_FIELD_NUMBER: _ClassVar[int]
    IPFS_FIELD_NUMBER: _ClassVar[int]
    SEAL_KEY_FIELD_NUMBER: _ClassVar[int]
    EPOCHS_GROW_FIELD_NUMBER: _ClassVar[int]
    session_id: str
    versions: _client_pb2.Versions
    epoch: int
    heartbeat_period: _duration_pb2.Duration
    heartbeat_timeout: _duration_pb2.Duration
    inline_bytes_max: int
    cancel_grace: _duration_pb2.Duration
    keep: _containers.RepeatedScalarFieldContainer[int]
    drop: _containers.RepeatedScalarFieldContainer[int]
    known: _containers.RepeatedScalarFieldContainer[int]
    release: _containers.RepeatedScalarFieldContainer[int]
    warnings: _containers.RepeatedScalarFieldContainer[str]
    fast_loops: bool
    ipfs: str
    seal_key: bytes
    epochs_grow: bool
    def __init__(self, session_id: _Optional[str] = ..., versions: _Optional[_Union[_client_pb2.Versions, _Mapping]] = ..., epoch: _Optional[int] = ..., heartbeat_period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., heartbeat_timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., inline_bytes_max: _Optional[int] = ..., cancel_grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., keep: _Optional[_Iterable[int]] = ..., drop: _Optional[_Iterable[int]] = ..., known: _Optional[_Iterable[int]] = ..., release: _Optional[_Iterable[int]] = ..., warnings: _Optional[_Iterable[str]] = ..., fast_loops: bool = ..., ipfs: _Optional[str] = ..., seal_key: _Optional[bytes] = ..., epochs_grow: bool = ...) -> None: ...

class TaskBody(_message.Message):
    __slots__ = ("body", "spec", "function", "run", "resources")
    BODY_FIELD_NUMBER: _ClassVar[int]
    SPEC_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    body: int
    spec: _graph_pb2.TaskSpec
    function: bytes
    run: int
    resources: _containers.RepeatedCompositeFieldContainer[_graph_pb2.ResourceDefinition]
    def __init__(self, body: _Optional[int] = ..., spec: _Optional[_Union[_graph_pb2.TaskSpec, _Mapping]] = ..., function: _Optional[bytes] = ..., run: _Optional[int] = ..., resources: _Optional[_Iterable[_Union[_graph_pb2.ResourceDefinition, _Mapping]]] = ...) -> None: ...

class RunHandle(_message.Message):
    __slots__ = ("run", "run_id", "logs", "params")
    RUN_FIELD_NUMBER: _ClassVar[int]
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    run: int
    run_id: str
    logs: bool
    params: bytes
    def __init__(self, run: _Optional[int] = ..., run_id: _Optional[str] = ..., logs: bool = ..., params: _Optional[bytes] = ...) -> None: ...

class Work(_message.Message):
    __slots__ = ("runs", "functions", "bodies", "assignments", "retract", "cancel", "release", "ended_runs", "close_runs", "recall", "promise", "forget_bodies")
    RUNS_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    BODIES_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENTS_FIELD_NUMBER: _ClassVar[int]
    RETRACT_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    RELEASE_FIELD_NUMBER: _ClassVar[int]
    ENDED_RUNS_FIELD_NUMBER: _ClassVar[int]
    CLOSE_RUNS_FIELD_NUMBER: _ClassVar[int]
    RECALL_FIELD_NUMBER: _ClassVar[int]
    PROMISE_FIELD_NUMBER: _ClassVar[int]
    FORGET_BODIES_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunHandle]
    functions: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Function]
    bodies: _containers.RepeatedCompositeFieldContainer[TaskBody]
    assignments: _containers.RepeatedCompositeFieldContainer[Assignment]
    retract: _containers.RepeatedScalarFieldContainer[int]
    cancel: _containers.RepeatedScalarFieldContainer[int]
    release: _containers.RepeatedScalarFieldContainer[int]
    ended_runs: _containers.RepeatedScalarFieldContainer[int]
    close_runs: _containers.RepeatedScalarFieldContainer[int]
    recall: _containers.RepeatedScalarFieldContainer[int]
    promise: int
    forget_bodies: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunHandle, _Mapping]]] = ..., functions: _Optional[_Iterable[_Union[_graph_pb2.Function, _Mapping]]] = ..., bodies: _Optional[_Iterable[_Union[TaskBody, _Mapping]]] = ..., assignments: _Optional[_Iterable[_Union[Assignment, _Mapping]]] = ..., retract: _Optional[_Iterable[int]] = ..., cancel: _Optional[_Iterable[int]] = ..., release: _Optional[_Iterable[int]] = ..., ended_runs: _Optional[_Iterable[int]] = ..., close_runs: _Optional[_Iterable[int]] = ..., recall: _Optional[_Iterable[int]] = ..., promise: _Optional[int] = ..., forget_bodies: _Optional[_Iterable[int]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("attempt", "body", "args", "args_blob", "inputs", "ahead", "observe", "publish", "node_id", "map_index_plus_one", "inline_bytes_max", "route_keys", "overrides", "observe_only", "tail", "amounts", "lease", "jump_keys", "jump_exits", "whole", "run", "behind", "step", "within")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    TRY_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ARGS_BLOB_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    AHEAD_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_FIELD_NUMBER: _ClassVar[int]
    PUBLISH_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    MAP_INDEX_PLUS_ONE_FIELD_NUMBER: _ClassVar[int]
    INLINE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    ROUTE_KEYS_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_ONLY_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    JUMP_KEYS_FIELD_NUMBER: _ClassVar[int]
    JUMP_EXITS_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    BEHIND_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    WITHIN_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    body: int
    args: bytes
    args_blob: _value_pb2.BlobRef
    inputs: _containers.RepeatedCompositeFieldContainer[_value_pb2.Value]
    ahead: bool
    observe: int
    publish: bool
    node_id: str
    map_index_plus_one: int
    inline_bytes_max: int
    route_keys: _containers.RepeatedScalarFieldContainer[bytes]
    overrides: bytes
    observe_only: bool
    tail: bool
    amounts: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Amount]
    lease: bool
    jump_keys: bytes
    jump_exits: _containers.RepeatedScalarFieldContainer[int]
    whole: bool
    run: int
    behind: int
    step: int
    within: str
    def __init__(self, attempt: _Optional[int] = ..., body: _Optional[int] = ..., args: _Optional[bytes] = ..., args_blob: _Optional[_Union[_value_pb2.BlobRef, _Mapping]] = ..., inputs: _Optional[_Iterable[_Union[_value_pb2.Value, _Mapping]]] = ..., ahead: bool = ..., observe: _Optional[int] = ..., publish: bool = ..., node_id: _Optional[str] = ..., map_index_plus_one: _Optional[int] = ..., inline_bytes_max: _Optional[int] = ..., route_keys: _Optional[_Iterable[bytes]] = ..., overrides: _Optional[bytes] = ..., observe_only: bool = ..., tail: bool = ..., amounts: _Optional[_Iterable[_Union[_graph_pb2.Amount, _Mapping]]] = ..., lease: bool = ..., jump_keys: _Optional[bytes] = ..., jump_exits: _Optional[_Iterable[int]] = ..., whole: bool = ..., run: _Optional[int] = ..., behind: _Optional[int] = ..., step: _Optional[int] = ..., within: _Optional[str] = ..., **kwargs) -> None: ...

class Reports(_message.Message):
    __slots__ = ("started", "reports", "logs", "draining", "resources", "closed_runs", "leases", "promised", "copies")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    REPORTS_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    CLOSED_RUNS_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    PROMISED_FIELD_NUMBER: _ClassVar[int]
    COPIES_FIELD_NUMBER: _ClassVar[int]
    started: _containers.RepeatedScalarFieldContainer[int]
    reports: _containers.RepeatedCompositeFieldContainer[Report]
    logs: _containers.RepeatedCompositeFieldContainer[_value_pb2.LogLine]
    draining: bool
    resources: _containers.RepeatedCompositeFieldContainer[ResourceReport]
    closed_runs: _containers.RepeatedScalarFieldContainer[int]
    leases: _containers.RepeatedCompositeFieldContainer[LeaseProgress]
    promised: int
    copies: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, started: _Optional[_Iterable[int]] = ..., reports: _Optional[_Iterable[_Union[Report, _Mapping]]] = ..., logs: _Optional[_Iterable[_Union[_value_pb2.LogLine, _Mapping]]] = ..., draining: bool = ..., resources: _Optional[_Iterable[_Union[ResourceReport, _Mapping]]] = ..., closed_runs: _Optional[_Iterable[int]] = ..., leases: _Optional[_Iterable[_Union[LeaseProgress, _Mapping]]] = ..., promised: _Optional[int] = ..., copies: _Optional[_Iterable[int]] = ...) -> None: ...

class ResourceReport(_message.Message):
    __slots__ = ("run", "name", "released", "reason", "attempt", "duration_ns")
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RELEASED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    run: int
    name: str
    released: bool
    reason: str
    attempt: int
    duration_ns: int
    def __init__(self, run: _Optional[int] = ..., name: _Optional[str] = ..., released: bool = ..., reason: _Optional[str] = ..., attempt: _Optional[int] = ..., duration_ns: _Optional[int] = ...) -> None: ...

class LeaseProgress(_message.Message):
    __slots__ = ("attempt", "iterations", "args", "node_id")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    iterations: int
    args: bytes
    node_id: bytes
    def __init__(self, attempt: _Optional[int] = ..., iterations: _Optional[int] = ..., args: _Optional[bytes] = ..., node_id: _Optional[bytes] = ...) -> None: ...

class Report(_message.Message):
    __slots__ = ("attempt", "done", "failed", "lost", "returned", "cancelled", "duration_ns")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    RETURNED_FIELD_NUMBER: _ClassVar[int]
    CANCELLED_FIELD_NUMBER: _ClassVar[int]
    DURATION_NS_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    done: Done
    failed: Failed
    lost: Lost
    returned: Returned
    cancelled: Cancelled
    duration_ns: int
    def __init__(self, attempt: _Optional[int] = ..., done: _Optional[_Union[Done, _Mapping]] = ..., failed: _Optional[_Union[Failed, _Mapping]] = ..., lost: _Optional[_Union[Lost, _Mapping]] = ..., returned: _Optional[_Union[Returned, _Mapping]] = ..., cancelled: _Optional[_Union[Cancelled, _Mapping]] = ..., duration_ns: _Optional[int] = ...) -> None: ...

class Done(_message.Message):
    __slots__ = ("value", "truth", "length", "items", "observe_error", "preview", "routes_plus_one", "route_text", "amount_micros", "digest", "tail", "cached", "iterations")
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    OBSERVE_ERROR_FIELD_NUMBER: _ClassVar[int]
    PREVIEW_FIELD_NUMBER: _ClassVar[int]
    ROUTES_PLUS_ONE_FIELD_NUMBER: _ClassVar[int]
    ROUTE_TEXT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_MICROS_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TAIL_FIELD_NUMBER: _ClassVar[int]
    CACHED_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    value: _value_pb2.Value
    truth: bool
    length: int
    items: _containers.RepeatedScalarFieldContainer[bytes]
    observe_error: _value_pb2.TaskError
    preview: str
    routes_plus_one: _containers.RepeatedScalarFieldContainer[int]
    route_text: str
    amount_micros: int
    digest: bytes
    tail: Tail
    cached: bool
    iterations: int
    def __init__(self, value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ..., truth: bool = ..., length: _Optional[int] = ..., items: _Optional[_Iterable[bytes]] = ..., observe_error: _Optional[_Union[_value_pb2.TaskError, _Mapping]] = ..., preview: _Optional[str] = ..., routes_plus_one: _Optional[_Iterable[int]] = ..., route_text: _Optional[str] = ..., amount_micros: _Optional[int] = ..., digest: _Optional[bytes] = ..., tail: _Optional[_Union[Tail, _Mapping]] = ..., cached: bool = ..., iterations: _Optional[int] = ...) -> None: ...

class Tail(_message.Message):
    __slots__ = ("graph", "jump_plus_one", "overrides", "names", "head", "node_id", "args")
    GRAPH_FIELD_NUMBER: _ClassVar[int]
    JUMP_PLUS_ONE_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    graph: _client_pb2.Submit
    jump_plus_one: int
    overrides: bytes
    names: _containers.RepeatedScalarFieldContainer[str]
    head: bytes
    node_id: bytes
    args: bytes
    def __init__(self, graph: _Optional[_Union[_client_pb2.Submit, _Mapping]] = ..., jump_plus_one: _Optional[int] = ..., overrides: _Optional[bytes] = ..., names: _Optional[_Iterable[str]] = ..., head: _Optional[bytes] = ..., node_id: _Optional[bytes] = ..., args: _Optional[bytes] = ...) -> None: ...

class Failed(_message.Message):
    __slots__ = ("error", "kind", "retryable", "lost_inputs")
    ERROR_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    RETRYABLE_FIELD_NUMBER: _ClassVar[int]
    LOST_INPUTS_FIELD_NUMBER: _ClassVar[int]
    error: _value_pb2.TaskError
    kind: FailureKind
    retryable: bool
    lost_inputs: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, error: _Optional[_Union[_value_pb2.TaskError, _Mapping]] = ..., kind: _Optional[_Union[FailureKind, str]] = ..., retryable: bool = ..., lost_inputs: _Optional[_Iterable[int]] = ...) -> None: ...

class Lost(_message.Message):
    __slots__ = ("reason", "innocent")
    REASON_FIELD_NUMBER: _ClassVar[int]
    INNOCENT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    innocent: bool
    def __init__(self, reason: _Optional[str] = ..., innocent: bool = ...) -> None: ...

class Returned(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Cancelled(_message.Message):
    __slots__ = ("killed",)
    KILLED_FIELD_NUMBER: _ClassVar[int]
    killed: bool
    def __init__(self, killed: bool = ...) -> None: ...

class WorkerHeartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class SchedulerHeartbeat(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Goodbye(_message.Message):
    __slots__ = ("reason", "reconnect")
    REASON_FIELD_NUMBER: _ClassVar[int]
    RECONNECT_FIELD_NUMBER: _ClassVar[int]
    reason: str
    reconnect: bool
    def __init__(self, reason: _Optional[str] = ..., reconnect: bool = ...) -> None: ...

class FetchValueRequest(_message.Message):
    __slots__ = ("value",)
    VALUE_FIELD_NUMBER: _ClassVar[int]
    value: _value_pb2.DeferredValue
    def __init__(self, value: _Optional[_Union[_value_pb2.DeferredValue, _Mapping]] = ...) -> None: ...

class FetchValueResponse(_message.Message):
    __slots__ = ("template", "compound", "items", "template_blob")
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    COMPOUND_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_BLOB_FIELD_NUMBER: _ClassVar[int]
    template: bytes
    compound: bool
    items: _containers.RepeatedCompositeFieldContainer[_value_pb2.Value]
    template_blob: _value_pb2.BlobRef
    def __init__(self, template: _Optional[bytes] = ..., compound: bool = ..., items: _Optional[_Iterable[_Union[_value_pb2.Value, _Mapping]]] = ..., template_blob: _Optional[_Union[_value_pb2.BlobRef, _Mapping]] = ...) -> None: ...

class FetchFunctionsRequest(_message.Message):
    __slots__ = ("cids",)
    CIDS_FIELD_NUMBER: _ClassVar[int]
    cids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, cids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class FetchFunctionsResponse(_message.Message):
    __slots__ = ("functions",)
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    functions: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Function]
    def __init__(self, functions: _Optional[_Iterable[_Union[_graph_pb2.Function, _Mapping]]] = ...) -> None: ...

class GetCachedRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class GetCachedResponse(_message.Message):
    __slots__ = ("found", "value")
    FOUND_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    found: bool
    value: bytes
    def __init__(self, found: bool = ..., value: _Optional[bytes] = ...) -> None: ...

class PutCachedRequest(_message.Message):
    __slots__ = ("key", "value", "ttl")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    ttl: _duration_pb2.Duration
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class PutCachedResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FindLanesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class FindLanesResponse(_message.Message):
    __slots__ = ("port", "key")
    PORT_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    port: int
    key: bytes
    def __init__(self, port: _Optional[int] = ..., key: _Optional[bytes] = ...) -> None: ...

class FetchObjectRequest(_message.Message):
    __slots__ = ("attempt", "offset_bytes", "length_bytes")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    OFFSET_BYTES_FIELD_NUMBER: _ClassVar[int]
    LENGTH_BYTES_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    offset_bytes: int
    length_bytes: int
    def __init__(self, attempt: _Optional[int] = ..., offset_bytes: _Optional[int] = ..., length_bytes: _Optional[int] = ...) -> None: ...

class FetchObjectResponse(_message.Message):
    __slots__ = ("size_bytes", "data", "checksum")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    CHECKSUM_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    data: bytes
    checksum: int
    def __init__(self, size_bytes: _Optional[int] = ..., data: _Optional[bytes] = ..., checksum: _Optional[int] = ...) -> None: ...
