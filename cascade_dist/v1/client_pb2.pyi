import datetime

from cascade_dist.v1 import graph_pb2 as _graph_pb2
from cascade_dist.v1 import value_pb2 as _value_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OnFailure(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    ON_FAILURE_UNSPECIFIED: _ClassVar[OnFailure]
    ON_FAILURE_CANCEL: _ClassVar[OnFailure]
    ON_FAILURE_FINISH: _ClassVar[OnFailure]

class ConstraintType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSTRAINT_TYPE_UNSPECIFIED: _ClassVar[ConstraintType]
    CONSTRAINT_TYPE_PAUSE: _ClassVar[ConstraintType]
    CONSTRAINT_TYPE_CONCURRENCY: _ClassVar[ConstraintType]
    CONSTRAINT_TYPE_RATE_LIMIT: _ClassVar[ConstraintType]

class RefusalCode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    REFUSAL_CODE_UNSPECIFIED: _ClassVar[RefusalCode]
    REFUSAL_CODE_INVALID: _ClassVar[RefusalCode]
    REFUSAL_CODE_CONFLICT: _ClassVar[RefusalCode]
    REFUSAL_CODE_NOT_FOUND: _ClassVar[RefusalCode]
    REFUSAL_CODE_INFEASIBLE: _ClassVar[RefusalCode]
    REFUSAL_CODE_TOO_LARGE: _ClassVar[RefusalCode]
    REFUSAL_CODE_DRAINING: _ClassVar[RefusalCode]

class RunState(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RUN_STATE_UNSPECIFIED: _ClassVar[RunState]
    RUN_STATE_PENDING: _ClassVar[RunState]
    RUN_STATE_RUNNING: _ClassVar[RunState]
    RUN_STATE_CANCELLING: _ClassVar[RunState]
    RUN_STATE_SUCCEEDED: _ClassVar[RunState]
    RUN_STATE_FAILED: _ClassVar[RunState]
    RUN_STATE_CANCELLED: _ClassVar[RunState]
ON_FAILURE_UNSPECIFIED: OnFailure
ON_FAILURE_CANCEL: OnFailure
ON_FAILURE_FINISH: OnFailure
CONSTRAINT_TYPE_UNSPECIFIED: ConstraintType
CONSTRAINT_TYPE_PAUSE: ConstraintType
CONSTRAINT_TYPE_CONCURRENCY: ConstraintType
CONSTRAINT_TYPE_RATE_LIMIT: ConstraintType
REFUSAL_CODE_UNSPECIFIED: RefusalCode
REFUSAL_CODE_INVALID: RefusalCode
REFUSAL_CODE_CONFLICT: RefusalCode
REFUSAL_CODE_NOT_FOUND: RefusalCode
REFUSAL_CODE_INFEASIBLE: RefusalCode
REFUSAL_CODE_TOO_LARGE: RefusalCode
REFUSAL_CODE_DRAINING: RefusalCode
RUN_STATE_UNSPECIFIED: RunState
RUN_STATE_PENDING: RunState
RUN_STATE_RUNNING: RunState
RUN_STATE_CANCELLING: RunState
RUN_STATE_SUCCEEDED: RunState
RUN_STATE_FAILED: RunState
RUN_STATE_CANCELLED: RunState

class Versions(_message.Message):
    __slots__ = ("protocol_major", "protocol_minor", "python", "cascade", "cloudpickle")
    PROTOCOL_MAJOR_FIELD_NUMBER: _ClassVar[int]
    PROTOCOL_MINOR_FIELD_NUMBER: _ClassVar[int]
    PYTHON_FIELD_NUMBER: _ClassVar[int]
    CASCADE_FIELD_NUMBER: _ClassVar[int]
    CLOUDPICKLE_FIELD_NUMBER: _ClassVar[int]
    protocol_major: int
    protocol_minor: int
    python: str
    cascade: str
    cloudpickle: str
    def __init__(self, protocol_major: _Optional[int] = ..., protocol_minor: _Optional[int] = ..., python: _Optional[str] = ..., cascade: _Optional[str] = ..., cloudpickle: _Optional[str] = ...) -> None: ...

class OpenRequest(_message.Message):
    __slots__ = ("hello", "submit", "attach", "cancel", "detach")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    SUBMIT_FIELD_NUMBER: _ClassVar[int]
    ATTACH_FIELD_NUMBER: _ClassVar[int]
    CANCEL_FIELD_NUMBER: _ClassVar[int]
    DETACH_FIELD_NUMBER: _ClassVar[int]
    hello: ClientHello
    submit: Submit
    attach: Attach
    cancel: Cancel
    detach: Detach
    def __init__(self, hello: _Optional[_Union[ClientHello, _Mapping]] = ..., submit: _Optional[_Union[Submit, _Mapping]] = ..., attach: _Optional[_Union[Attach, _Mapping]] = ..., cancel: _Optional[_Union[Cancel, _Mapping]] = ..., detach: _Optional[_Union[Detach, _Mapping]] = ...) -> None: ...

class OpenResponse(_message.Message):
    __slots__ = ("welcome", "accepted", "refused", "functions_needed", "update")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REFUSED_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_NEEDED_FIELD_NUMBER: _ClassVar[int]
    UPDATE_FIELD_NUMBER: _ClassVar[int]
    welcome: ClientWelcome
    accepted: Accepted
    refused: Refused
    functions_needed: FunctionsNeeded
    update: RunUpdate
    def __init__(self, welcome: _Optional[_Union[ClientWelcome, _Mapping]] = ..., accepted: _Optional[_Union[Accepted, _Mapping]] = ..., refused: _Optional[_Union[Refused, _Mapping]] = ..., functions_needed: _Optional[_Union[FunctionsNeeded, _Mapping]] = ..., update: _Optional[_Union[RunUpdate, _Mapping]] = ...) -> None: ...

class ClientHello(_message.Message):
    __slots__ = ("versions",)
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    versions: Versions
    def __init__(self, versions: _Optional[_Union[Versions, _Mapping]] = ...) -> None: ...

class ClientWelcome(_message.Message):
    __slots__ = ("versions", "inline_bytes_max", "graph_nodes_max", "warnings")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    INLINE_BYTES_MAX_FIELD_NUMBER: _ClassVar[int]
    GRAPH_NODES_MAX_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    versions: Versions
    inline_bytes_max: int
    graph_nodes_max: int
    warnings: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, versions: _Optional[_Union[Versions, _Mapping]] = ..., inline_bytes_max: _Optional[int] = ..., graph_nodes_max: _Optional[int] = ..., warnings: _Optional[_Iterable[str]] = ...) -> None: ...

class Submit(_message.Message):
    __slots__ = ("run_id", "options", "chunk", "end", "functions", "head", "node_id", "args")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    HEAD_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    options: RunOptions
    chunk: _graph_pb2.GraphChunk
    end: _graph_pb2.GraphEnd
    functions: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Function]
    head: bytes
    node_id: bytes
    args: bytes
    def __init__(self, run_id: _Optional[str] = ..., options: _Optional[_Union[RunOptions, _Mapping]] = ..., chunk: _Optional[_Union[_graph_pb2.GraphChunk, _Mapping]] = ..., end: _Optional[_Union[_graph_pb2.GraphEnd, _Mapping]] = ..., functions: _Optional[_Iterable[_Union[_graph_pb2.Function, _Mapping]]] = ..., head: _Optional[bytes] = ..., node_id: _Optional[bytes] = ..., args: _Optional[bytes] = ...) -> None: ...

class RunOptions(_message.Message):
    __slots__ = ("name", "on_failure", "logs", "cancel_on_disconnect", "disconnect_grace", "pools", "params", "resume")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ON_FAILURE_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    CANCEL_ON_DISCONNECT_FIELD_NUMBER: _ClassVar[int]
    DISCONNECT_GRACE_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    PARAMS_FIELD_NUMBER: _ClassVar[int]
    RESUME_FIELD_NUMBER: _ClassVar[int]
    name: str
    on_failure: OnFailure
    logs: bool
    cancel_on_disconnect: bool
    disconnect_grace: _duration_pb2.Duration
    pools: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Amount]
    params: bytes
    resume: bool
    def __init__(self, name: _Optional[str] = ..., on_failure: _Optional[_Union[OnFailure, str]] = ..., logs: bool = ..., cancel_on_disconnect: bool = ..., disconnect_grace: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., pools: _Optional[_Iterable[_Union[_graph_pb2.Amount, _Mapping]]] = ..., params: _Optional[bytes] = ..., resume: bool = ...) -> None: ...

class Constraint(_message.Message):
    __slots__ = ("id", "scope", "type", "limit", "rate", "capacity", "expires_at")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    RATE_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_FIELD_NUMBER: _ClassVar[int]
    id: str
    scope: str
    type: ConstraintType
    limit: int
    rate: float
    capacity: float
    expires_at: _timestamp_pb2.Timestamp
    def __init__(self, id: _Optional[str] = ..., scope: _Optional[str] = ..., type: _Optional[_Union[ConstraintType, str]] = ..., limit: _Optional[int] = ..., rate: _Optional[float] = ..., capacity: _Optional[float] = ..., expires_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ...) -> None: ...

class SetConstraintRequest(_message.Message):
    __slots__ = ("constraint", "ttl")
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    TTL_FIELD_NUMBER: _ClassVar[int]
    constraint: Constraint
    ttl: _duration_pb2.Duration
    def __init__(self, constraint: _Optional[_Union[Constraint, _Mapping]] = ..., ttl: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class SetConstraintResponse(_message.Message):
    __slots__ = ("constraint",)
    CONSTRAINT_FIELD_NUMBER: _ClassVar[int]
    constraint: Constraint
    def __init__(self, constraint: _Optional[_Union[Constraint, _Mapping]] = ...) -> None: ...

class ClearConstraintsRequest(_message.Message):
    __slots__ = ("id", "scope", "type", "all")
    ID_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ALL_FIELD_NUMBER: _ClassVar[int]
    id: str
    scope: str
    type: ConstraintType
    all: bool
    def __init__(self, id: _Optional[str] = ..., scope: _Optional[str] = ..., type: _Optional[_Union[ConstraintType, str]] = ..., all: bool = ...) -> None: ...

class ClearConstraintsResponse(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: _containers.RepeatedCompositeFieldContainer[Constraint]
    def __init__(self, removed: _Optional[_Iterable[_Union[Constraint, _Mapping]]] = ...) -> None: ...

class ListConstraintsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListConstraintsResponse(_message.Message):
    __slots__ = ("constraints",)
    CONSTRAINTS_FIELD_NUMBER: _ClassVar[int]
    constraints: _containers.RepeatedCompositeFieldContainer[Constraint]
    def __init__(self, constraints: _Optional[_Iterable[_Union[Constraint, _Mapping]]] = ...) -> None: ...

class SendMessageRequest(_message.Message):
    __slots__ = ("topic", "payload", "retain")
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    RETAIN_FIELD_NUMBER: _ClassVar[int]
    topic: str
    payload: bytes
    retain: bool
    def __init__(self, topic: _Optional[str] = ..., payload: _Optional[bytes] = ..., retain: bool = ...) -> None: ...

class SendMessageResponse(_message.Message):
    __slots__ = ("receivers",)
    RECEIVERS_FIELD_NUMBER: _ClassVar[int]
    receivers: int
    def __init__(self, receivers: _Optional[int] = ...) -> None: ...

class ExplainNodeRequest(_message.Message):
    __slots__ = ("run_id", "node")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    node: str
    def __init__(self, run_id: _Optional[str] = ..., node: _Optional[str] = ...) -> None: ...

class ExplainNodeResponse(_message.Message):
    __slots__ = ("nodes",)
    NODES_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeExplanation]
    def __init__(self, nodes: _Optional[_Iterable[_Union[NodeExplanation, _Mapping]]] = ...) -> None: ...

class NodeExplanation(_message.Message):
    __slots__ = ("node", "node_id", "reasons")
    NODE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    node: NodeInfo
    node_id: str
    reasons: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node: _Optional[_Union[NodeInfo, _Mapping]] = ..., node_id: _Optional[str] = ..., reasons: _Optional[_Iterable[str]] = ...) -> None: ...

class Attach(_message.Message):
    __slots__ = ("run_id", "logs", "own", "lines_after")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    LOGS_FIELD_NUMBER: _ClassVar[int]
    OWN_FIELD_NUMBER: _ClassVar[int]
    LINES_AFTER_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    logs: bool
    own: bool
    lines_after: int
    def __init__(self, run_id: _Optional[str] = ..., logs: bool = ..., own: bool = ..., lines_after: _Optional[int] = ...) -> None: ...

class Cancel(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class Detach(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class Accepted(_message.Message):
    __slots__ = ("run_id", "joined", "node_count")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    JOINED_FIELD_NUMBER: _ClassVar[int]
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    joined: bool
    node_count: int
    def __init__(self, run_id: _Optional[str] = ..., joined: bool = ..., node_count: _Optional[int] = ...) -> None: ...

class Refused(_message.Message):
    __slots__ = ("run_id", "code", "message")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    code: RefusalCode
    message: str
    def __init__(self, run_id: _Optional[str] = ..., code: _Optional[_Union[RefusalCode, str]] = ..., message: _Optional[str] = ...) -> None: ...

class FunctionsNeeded(_message.Message):
    __slots__ = ("run_id", "cids")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    CIDS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    cids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, run_id: _Optional[str] = ..., cids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class Progress(_message.Message):
    __slots__ = ("total", "done", "running", "skipped", "failed", "retried")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    RETRIED_FIELD_NUMBER: _ClassVar[int]
    total: int
    done: int
    running: int
    skipped: int
    failed: int
    retried: int
    def __init__(self, total: _Optional[int] = ..., done: _Optional[int] = ..., running: _Optional[int] = ..., skipped: _Optional[int] = ..., failed: _Optional[int] = ..., retried: _Optional[int] = ...) -> None: ...

class RunUpdate(_message.Message):
    __slots__ = ("run_id", "results", "progress", "output", "finish")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    OUTPUT_FIELD_NUMBER: _ClassVar[int]
    FINISH_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    results: _containers.RepeatedCompositeFieldContainer[NodeResult]
    progress: Progress
    output: _containers.RepeatedCompositeFieldContainer[TaskOutput]
    finish: RunFinish
    def __init__(self, run_id: _Optional[str] = ..., results: _Optional[_Iterable[_Union[NodeResult, _Mapping]]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., output: _Optional[_Iterable[_Union[TaskOutput, _Mapping]]] = ..., finish: _Optional[_Union[RunFinish, _Mapping]] = ...) -> None: ...

class NodeResult(_message.Message):
    __slots__ = ("node", "value")
    NODE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    node: int
    value: _value_pb2.Value
    def __init__(self, node: _Optional[int] = ..., value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ...) -> None: ...

class TaskOutput(_message.Message):
    __slots__ = ("task", "stream", "text", "worker", "event_id")
    TASK_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    task: str
    stream: _value_pb2.LogStream
    text: str
    worker: str
    event_id: int
    def __init__(self, task: _Optional[str] = ..., stream: _Optional[_Union[_value_pb2.LogStream, str]] = ..., text: _Optional[str] = ..., worker: _Optional[str] = ..., event_id: _Optional[int] = ...) -> None: ...

class RunFinish(_message.Message):
    __slots__ = ("state", "tree", "error", "failed_task", "skip_reason", "skipped_node", "skipped_dependency", "duration", "progress")
    STATE_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FAILED_TASK_FIELD_NUMBER: _ClassVar[int]
    SKIP_REASON_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_NODE_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_DEPENDENCY_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    tree: TargetTree
    error: _value_pb2.TaskError
    failed_task: str
    skip_reason: str
    skipped_node: int
    skipped_dependency: str
    duration: _duration_pb2.Duration
    progress: Progress
    def __init__(self, state: _Optional[_Union[RunState, str]] = ..., tree: _Optional[_Union[TargetTree, _Mapping]] = ..., error: _Optional[_Union[_value_pb2.TaskError, _Mapping]] = ..., failed_task: _Optional[str] = ..., skip_reason: _Optional[str] = ..., skipped_node: _Optional[int] = ..., skipped_dependency: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ...) -> None: ...

class TargetTree(_message.Message):
    __slots__ = ("node", "list", "compound")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    COMPOUND_FIELD_NUMBER: _ClassVar[int]
    node: int
    list: TargetList
    compound: TargetCompound
    def __init__(self, node: _Optional[int] = ..., list: _Optional[_Union[TargetList, _Mapping]] = ..., compound: _Optional[_Union[TargetCompound, _Mapping]] = ...) -> None: ...

class TargetList(_message.Message):
    __slots__ = ("items", "nodes")
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[TargetTree]
    nodes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, items: _Optional[_Iterable[_Union[TargetTree, _Mapping]]] = ..., nodes: _Optional[_Iterable[int]] = ...) -> None: ...

class TargetCompound(_message.Message):
    __slots__ = ("template", "inputs", "nodes", "template_blob")
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_BLOB_FIELD_NUMBER: _ClassVar[int]
    template: bytes
    inputs: _containers.RepeatedCompositeFieldContainer[TargetTree]
    nodes: _containers.RepeatedScalarFieldContainer[int]
    template_blob: _value_pb2.BlobRef
    def __init__(self, template: _Optional[bytes] = ..., inputs: _Optional[_Iterable[_Union[TargetTree, _Mapping]]] = ..., nodes: _Optional[_Iterable[int]] = ..., template_blob: _Optional[_Union[_value_pb2.BlobRef, _Mapping]] = ...) -> None: ...

class WatchRequest(_message.Message):
    __slots__ = ("run_id", "after", "follow")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    after: int
    follow: bool
    def __init__(self, run_id: _Optional[str] = ..., after: _Optional[int] = ..., follow: bool = ...) -> None: ...

class WatchResponse(_message.Message):
    __slots__ = ("events", "truncated")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[Event]
    truncated: bool
    def __init__(self, events: _Optional[_Iterable[_Union[Event, _Mapping]]] = ..., truncated: bool = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("event_id", "timestamp", "kind", "task", "node_id", "status", "reason", "error", "result_preview", "worker", "duration", "attempt", "max_attempts", "delay", "stream", "text", "iterations", "resource")
    EVENT_ID_FIELD_NUMBER: _ClassVar[int]
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    RESULT_PREVIEW_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    RESOURCE_FIELD_NUMBER: _ClassVar[int]
    event_id: int
    timestamp: _timestamp_pb2.Timestamp
    kind: str
    task: str
    node_id: str
    status: str
    reason: str
    error: str
    result_preview: str
    worker: str
    duration: _duration_pb2.Duration
    attempt: int
    max_attempts: int
    delay: _duration_pb2.Duration
    stream: _value_pb2.LogStream
    text: str
    iterations: int
    resource: str
    def __init__(self, event_id: _Optional[int] = ..., timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., kind: _Optional[str] = ..., task: _Optional[str] = ..., node_id: _Optional[str] = ..., status: _Optional[str] = ..., reason: _Optional[str] = ..., error: _Optional[str] = ..., result_preview: _Optional[str] = ..., worker: _Optional[str] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., attempt: _Optional[int] = ..., max_attempts: _Optional[int] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., stream: _Optional[_Union[_value_pb2.LogStream, str]] = ..., text: _Optional[str] = ..., iterations: _Optional[int] = ..., resource: _Optional[str] = ...) -> None: ...

class GetRunRequest(_message.Message):
    __slots__ = ("run_id", "nodes_max", "all_nodes")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODES_MAX_FIELD_NUMBER: _ClassVar[int]
    ALL_NODES_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    nodes_max: int
    all_nodes: bool
    def __init__(self, run_id: _Optional[str] = ..., nodes_max: _Optional[int] = ..., all_nodes: bool = ...) -> None: ...

class GetRunResponse(_message.Message):
    __slots__ = ("run", "nodes")
    RUN_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    run: RunInfo
    nodes: _containers.RepeatedCompositeFieldContainer[NodeInfo]
    def __init__(self, run: _Optional[_Union[RunInfo, _Mapping]] = ..., nodes: _Optional[_Iterable[_Union[NodeInfo, _Mapping]]] = ...) -> None: ...

class RunInfo(_message.Message):
    __slots__ = ("run_id", "name", "state", "progress", "submitted", "duration", "error")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PROGRESS_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    name: str
    state: RunState
    progress: Progress
    submitted: _timestamp_pb2.Timestamp
    duration: _duration_pb2.Duration
    error: str
    def __init__(self, run_id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[_Union[RunState, str]] = ..., progress: _Optional[_Union[Progress, _Mapping]] = ..., submitted: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., duration: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., error: _Optional[str] = ...) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("node", "task", "state", "worker", "reason")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKER_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node: int
    task: str
    state: str
    worker: str
    reason: str
    def __init__(self, node: _Optional[int] = ..., task: _Optional[str] = ..., state: _Optional[str] = ..., worker: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ListRunsRequest(_message.Message):
    __slots__ = ("limit",)
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    limit: int
    def __init__(self, limit: _Optional[int] = ...) -> None: ...

class ListRunsResponse(_message.Message):
    __slots__ = ("runs",)
    RUNS_FIELD_NUMBER: _ClassVar[int]
    runs: _containers.RepeatedCompositeFieldContainer[RunInfo]
    def __init__(self, runs: _Optional[_Iterable[_Union[RunInfo, _Mapping]]] = ...) -> None: ...

class CancelRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class CancelRunResponse(_message.Message):
    __slots__ = ("state",)
    STATE_FIELD_NUMBER: _ClassVar[int]
    state: RunState
    def __init__(self, state: _Optional[_Union[RunState, str]] = ...) -> None: ...

class ListWorkersRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListWorkersResponse(_message.Message):
    __slots__ = ("workers",)
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    workers: _containers.RepeatedCompositeFieldContainer[WorkerInfo]
    def __init__(self, workers: _Optional[_Iterable[_Union[WorkerInfo, _Mapping]]] = ...) -> None: ...

class WorkerInfo(_message.Message):
    __slots__ = ("worker_id", "name", "state", "amounts", "free", "running", "queued", "host", "pid", "silent", "versions")
    WORKER_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    worker_id: str
    name: str
    state: str
    amounts: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Amount]
    free: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Amount]
    running: int
    queued: int
    host: str
    pid: int
    silent: _duration_pb2.Duration
    versions: Versions
    def __init__(self, worker_id: _Optional[str] = ..., name: _Optional[str] = ..., state: _Optional[str] = ..., amounts: _Optional[_Iterable[_Union[_graph_pb2.Amount, _Mapping]]] = ..., free: _Optional[_Iterable[_Union[_graph_pb2.Amount, _Mapping]]] = ..., running: _Optional[int] = ..., queued: _Optional[int] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., silent: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., versions: _Optional[_Union[Versions, _Mapping]] = ...) -> None: ...

class GetStatusRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetStatusResponse(_message.Message):
    __slots__ = ("versions", "address", "uptime", "epoch", "state", "workers", "amounts", "free", "runs_active", "nodes_ready", "nodes_running", "plans_solved", "plans_hit", "leases", "loop_steps", "pools", "pools_free")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    WORKERS_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    FREE_FIELD_NUMBER: _ClassVar[int]
    RUNS_ACTIVE_FIELD_NUMBER: _ClassVar[int]
    NODES_READY_FIELD_NUMBER: _ClassVar[int]
    NODES_RUNNING_FIELD_NUMBER: _ClassVar[int]
    PLANS_SOLVED_FIELD_NUMBER: _ClassVar[int]
    PLANS_HIT_FIELD_NUMBER: _ClassVar[int]
    LEASES_FIELD_NUMBER: _ClassVar[int]
    LOOP_STEPS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FIELD_NUMBER: _ClassVar[int]
    POOLS_FREE_FIELD_NUMBER: _ClassVar[int]
    versions: Versions
    address: str
    uptime: _duration_pb2.Duration
    epoch: int
    state: str
    workers: int
    amounts: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Amount]
    free: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Amount]
    runs_active: int
    nodes_ready: int
    nodes_running: int
    plans_solved: int
    plans_hit: int
    leases: int
    loop_steps: int
    pools: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Amount]
    pools_free: _containers.RepeatedCompositeFieldContainer[_graph_pb2.Amount]
    def __init__(self, versions: _Optional[_Union[Versions, _Mapping]] = ..., address: _Optional[str] = ..., uptime: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., epoch: _Optional[int] = ..., state: _Optional[str] = ..., workers: _Optional[int] = ..., amounts: _Optional[_Iterable[_Union[_graph_pb2.Amount, _Mapping]]] = ..., free: _Optional[_Iterable[_Union[_graph_pb2.Amount, _Mapping]]] = ..., runs_active: _Optional[int] = ..., nodes_ready: _Optional[int] = ..., nodes_running: _Optional[int] = ..., plans_solved: _Optional[int] = ..., plans_hit: _Optional[int] = ..., leases: _Optional[int] = ..., loop_steps: _Optional[int] = ..., pools: _Optional[_Iterable[_Union[_graph_pb2.Amount, _Mapping]]] = ..., pools_free: _Optional[_Iterable[_Union[_graph_pb2.Amount, _Mapping]]] = ...) -> None: ...

class HasBlobsRequest(_message.Message):
    __slots__ = ("cids", "look_for")
    CIDS_FIELD_NUMBER: _ClassVar[int]
    LOOK_FOR_FIELD_NUMBER: _ClassVar[int]
    cids: _containers.RepeatedScalarFieldContainer[bytes]
    look_for: _duration_pb2.Duration
    def __init__(self, cids: _Optional[_Iterable[bytes]] = ..., look_for: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class HasBlobsResponse(_message.Message):
    __slots__ = ("present",)
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    present: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, present: _Optional[_Iterable[bool]] = ...) -> None: ...

class PutBlobRequest(_message.Message):
    __slots__ = ("blob", "data")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    blob: _value_pb2.BlobRef
    data: bytes
    def __init__(self, blob: _Optional[_Union[_value_pb2.BlobRef, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class PutBlobResponse(_message.Message):
    __slots__ = ("existed",)
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    existed: bool
    def __init__(self, existed: bool = ...) -> None: ...

class ListBlobsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListBlobsResponse(_message.Message):
    __slots__ = ("blobs",)
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    blobs: _containers.RepeatedCompositeFieldContainer[BlobInfo]
    def __init__(self, blobs: _Optional[_Iterable[_Union[BlobInfo, _Mapping]]] = ...) -> None: ...

class BlobInfo(_message.Message):
    __slots__ = ("blob", "used", "in_use", "pinned")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    blob: _value_pb2.BlobRef
    used: _timestamp_pb2.Timestamp
    in_use: bool
    pinned: bool
    def __init__(self, blob: _Optional[_Union[_value_pb2.BlobRef, _Mapping]] = ..., used: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., in_use: bool = ..., pinned: bool = ...) -> None: ...

class PinBlobsRequest(_message.Message):
    __slots__ = ("cids",)
    CIDS_FIELD_NUMBER: _ClassVar[int]
    cids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, cids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class PinBlobsResponse(_message.Message):
    __slots__ = ("present",)
    PRESENT_FIELD_NUMBER: _ClassVar[int]
    present: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, present: _Optional[_Iterable[bool]] = ...) -> None: ...

class UnpinBlobsRequest(_message.Message):
    __slots__ = ("cids",)
    CIDS_FIELD_NUMBER: _ClassVar[int]
    cids: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, cids: _Optional[_Iterable[bytes]] = ...) -> None: ...

class UnpinBlobsResponse(_message.Message):
    __slots__ = ("pinned",)
    PINNED_FIELD_NUMBER: _ClassVar[int]
    pinned: _containers.RepeatedScalarFieldContainer[bool]
    def __init__(self, pinned: _Optional[_Iterable[bool]] = ...) -> None: ...

class GetBlobRequest(_message.Message):
    __slots__ = ("cid",)
    CID_FIELD_NUMBER: _ClassVar[int]
    cid: bytes
    def __init__(self, cid: _Optional[bytes] = ...) -> None: ...

class GetBlobResponse(_message.Message):
    __slots__ = ("size_bytes", "data")
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    size_bytes: int
    data: bytes
    def __init__(self, size_bytes: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class KeepStateRequest(_message.Message):
    __slots__ = ("number",)
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    number: int
    def __init__(self, number: _Optional[int] = ...) -> None: ...

class KeepStateResponse(_message.Message):
    __slots__ = ("number", "records", "last")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    RECORDS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    number: int
    records: _containers.RepeatedCompositeFieldContainer[StateRecord]
    last: bool
    def __init__(self, number: _Optional[int] = ..., records: _Optional[_Iterable[_Union[StateRecord, _Mapping]]] = ..., last: bool = ...) -> None: ...

class StateRecord(_message.Message):
    __slots__ = ("run_id", "node_id", "result", "skipped", "cleared")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SKIPPED_FIELD_NUMBER: _ClassVar[int]
    CLEARED_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    node_id: str
    result: _value_pb2.Value
    skipped: str
    cleared: bool
    def __init__(self, run_id: _Optional[str] = ..., node_id: _Optional[str] = ..., result: _Optional[_Union[_value_pb2.Value, _Mapping]] = ..., skipped: _Optional[str] = ..., cleared: bool = ...) -> None: ...

class ExportRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ExportRunResponse(_message.Message):
    __slots__ = ("data",)
    DATA_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    def __init__(self, data: _Optional[bytes] = ...) -> None: ...

class ImportRunRequest(_message.Message):
    __slots__ = ("run_id", "data")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    data: bytes
    def __init__(self, run_id: _Optional[str] = ..., data: _Optional[bytes] = ...) -> None: ...

class ImportRunResponse(_message.Message):
    __slots__ = ("run_id", "existed", "state", "results", "blobs")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    EXISTED_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    existed: bool
    state: RunState
    results: int
    blobs: int
    def __init__(self, run_id: _Optional[str] = ..., existed: bool = ..., state: _Optional[_Union[RunState, str]] = ..., results: _Optional[int] = ..., blobs: _Optional[int] = ...) -> None: ...

class ResumeRunRequest(_message.Message):
    __slots__ = ("run_id",)
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    def __init__(self, run_id: _Optional[str] = ...) -> None: ...

class ResumeRunResponse(_message.Message):
    __slots__ = ("results",)
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    results: int
    def __init__(self, results: _Optional[int] = ...) -> None: ...

class CollectGarbageRequest(_message.Message):
    __slots__ = ("dry_run", "blobs_idle")
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    BLOBS_IDLE_FIELD_NUMBER: _ClassVar[int]
    dry_run: bool
    blobs_idle: _duration_pb2.Duration
    def __init__(self, dry_run: bool = ..., blobs_idle: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class CollectGarbageResponse(_message.Message):
    __slots__ = ("found",)
    FOUND_FIELD_NUMBER: _ClassVar[int]
    found: _containers.RepeatedCompositeFieldContainer[Garbage]
    def __init__(self, found: _Optional[_Iterable[_Union[Garbage, _Mapping]]] = ...) -> None: ...

class Garbage(_message.Message):
    __slots__ = ("kind", "count", "bytes", "names", "error")
    KIND_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    kind: str
    count: int
    bytes: int
    names: _containers.RepeatedScalarFieldContainer[str]
    error: str
    def __init__(self, kind: _Optional[str] = ..., count: _Optional[int] = ..., bytes: _Optional[int] = ..., names: _Optional[_Iterable[str]] = ..., error: _Optional[str] = ...) -> None: ...
