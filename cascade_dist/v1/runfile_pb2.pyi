import datetime

from cascade_dist.v1 import client_pb2 as _client_pb2
from cascade_dist.v1 import graph_pb2 as _graph_pb2
from cascade_dist.v1 import value_pb2 as _value_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class RunFilePart(_message.Message):
    __slots__ = ("run", "chunk", "graph_end", "function", "result", "skip", "events", "jump", "checkpoint", "blob", "end", "answer")
    RUN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    GRAPH_END_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    SKIP_FIELD_NUMBER: _ClassVar[int]
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    JUMP_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    ANSWER_FIELD_NUMBER: _ClassVar[int]
    run: RunFileRun
    chunk: bytes
    graph_end: bytes
    function: _graph_pb2.Function
    result: RunFileResult
    skip: RunFileSkip
    events: RunFileEvents
    jump: RunFileJump
    checkpoint: RunFileCheckpoint
    blob: RunFileBlob
    end: RunFileEnd
    answer: RunFileAnswer
    def __init__(self, run: _Optional[_Union[RunFileRun, _Mapping]] = ..., chunk: _Optional[bytes] = ..., graph_end: _Optional[bytes] = ..., function: _Optional[_Union[_graph_pb2.Function, _Mapping]] = ..., result: _Optional[_Union[RunFileResult, _Mapping]] = ..., skip: _Optional[_Union[RunFileSkip, _Mapping]] = ..., events: _Optional[_Union[RunFileEvents, _Mapping]] = ..., jump: _Optional[_Union[RunFileJump, _Mapping]] = ..., checkpoint: _Optional[_Union[RunFileCheckpoint, _Mapping]] = ..., blob: _Optional[_Union[RunFileBlob, _Mapping]] = ..., end: _Optional[_Union[RunFileEnd, _Mapping]] = ..., answer: _Optional[_Union[RunFileAnswer, _Mapping]] = ...) -> None: ...

class RunFileRun(_message.Message):
    __slots__ = ("run_id", "options", "submitted", "target_id", "node_count", "params_digest", "template_id", "state", "error", "frame", "exported", "versions", "counts")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    SUBMITTED_FIELD_NUMBER: _ClassVar[int]
    TARGET_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    PARAMS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_ID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    FRAME_FIELD_NUMBER: _ClassVar[int]
    EXPORTED_FIELD_NUMBER: _ClassVar[int]
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    options: _client_pb2.RunOptions
    submitted: _timestamp_pb2.Timestamp
    target_id: str
    node_count: int
    params_digest: bytes
    template_id: bytes
    state: _client_pb2.RunState
    error: str
    frame: int
    exported: _timestamp_pb2.Timestamp
    versions: _client_pb2.Versions
    counts: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, run_id: _Optional[str] = ..., options: _Optional[_Union[_client_pb2.RunOptions, _Mapping]] = ..., submitted: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., target_id: _Optional[str] = ..., node_count: _Optional[int] = ..., params_digest: _Optional[bytes] = ..., template_id: _Optional[bytes] = ..., state: _Optional[_Union[_client_pb2.RunState, str]] = ..., error: _Optional[str] = ..., frame: _Optional[int] = ..., exported: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., versions: _Optional[_Union[_client_pb2.Versions, _Mapping]] = ..., counts: _Optional[_Iterable[int]] = ...) -> None: ...

class RunFileResult(_message.Message):
    __slots__ = ("node_id", "value", "truth", "length", "observed")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    TRUTH_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    OBSERVED_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    value: _value_pb2.Value
    truth: bool
    length: int
    observed: bytes
    def __init__(self, node_id: _Optional[str] = ..., value: _Optional[_Union[_value_pb2.Value, _Mapping]] = ..., truth: bool = ..., length: _Optional[int] = ..., observed: _Optional[bytes] = ...) -> None: ...

class RunFileSkip(_message.Message):
    __slots__ = ("node_id", "reason")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    node_id: str
    reason: str
    def __init__(self, node_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RunFileEvents(_message.Message):
    __slots__ = ("first", "payload")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_FIELD_NUMBER: _ClassVar[int]
    first: int
    payload: bytes
    def __init__(self, first: _Optional[int] = ..., payload: _Optional[bytes] = ...) -> None: ...

class RunFileJump(_message.Message):
    __slots__ = ("target", "names", "overrides")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    target: int
    names: _containers.RepeatedScalarFieldContainer[str]
    overrides: bytes
    def __init__(self, target: _Optional[int] = ..., names: _Optional[_Iterable[str]] = ..., overrides: _Optional[bytes] = ...) -> None: ...

class RunFileCheckpoint(_message.Message):
    __slots__ = ("node_id", "args", "iterations")
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    ITERATIONS_FIELD_NUMBER: _ClassVar[int]
    node_id: bytes
    args: bytes
    iterations: int
    def __init__(self, node_id: _Optional[bytes] = ..., args: _Optional[bytes] = ..., iterations: _Optional[int] = ...) -> None: ...

class RunFileAnswer(_message.Message):
    __slots__ = ("finish", "keys")
    FINISH_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    finish: bytes
    keys: _containers.RepeatedCompositeFieldContainer[RunFileKey]
    def __init__(self, finish: _Optional[bytes] = ..., keys: _Optional[_Iterable[_Union[RunFileKey, _Mapping]]] = ...) -> None: ...

class RunFileKey(_message.Message):
    __slots__ = ("node", "node_id")
    NODE_FIELD_NUMBER: _ClassVar[int]
    NODE_ID_FIELD_NUMBER: _ClassVar[int]
    node: int
    node_id: str
    def __init__(self, node: _Optional[int] = ..., node_id: _Optional[str] = ...) -> None: ...

class RunFileBlob(_message.Message):
    __slots__ = ("blob", "data")
    BLOB_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    blob: _value_pb2.BlobRef
    data: bytes
    def __init__(self, blob: _Optional[_Union[_value_pb2.BlobRef, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class RunFileEnd(_message.Message):
    __slots__ = ("parts", "sha256")
    PARTS_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    parts: int
    sha256: bytes
    def __init__(self, parts: _Optional[int] = ..., sha256: _Optional[bytes] = ...) -> None: ...
