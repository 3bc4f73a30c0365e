import datetime

from cascade_dist.v1 import value_pb2 as _value_pb2
from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class NodeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    NODE_KIND_UNSPECIFIED: _ClassVar[NodeKind]
    NODE_KIND_CALL: _ClassVar[NodeKind]
    NODE_KIND_GATHER: _ClassVar[NodeKind]
    NODE_KIND_COLLECT: _ClassVar[NodeKind]
    NODE_KIND_GATE: _ClassVar[NodeKind]
    NODE_KIND_MAP: _ClassVar[NodeKind]
    NODE_KIND_ROUTER: _ClassVar[NodeKind]
    NODE_KIND_LITERAL: _ClassVar[NodeKind]
    NODE_KIND_WAIT: _ClassVar[NodeKind]
    NODE_KIND_RECV: _ClassVar[NodeKind]

class EdgeKind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    EDGE_KIND_UNSPECIFIED: _ClassVar[EdgeKind]
    EDGE_KIND_DATA: _ClassVar[EdgeKind]
    EDGE_KIND_CONDITION: _ClassVar[EdgeKind]
    EDGE_KIND_SEQUENCE: _ClassVar[EdgeKind]
    EDGE_KIND_ITEMS: _ClassVar[EdgeKind]
    EDGE_KIND_GATE: _ClassVar[EdgeKind]
    EDGE_KIND_SELECTOR: _ClassVar[EdgeKind]
    EDGE_KIND_ROUTE: _ClassVar[EdgeKind]
    EDGE_KIND_AMOUNT: _ClassVar[EdgeKind]

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_BLOCKING: _ClassVar[Mode]
    MODE_COMPUTE: _ClassVar[Mode]

class ResourceScope(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    RESOURCE_SCOPE_UNSPECIFIED: _ClassVar[ResourceScope]
    RESOURCE_SCOPE_TASK: _ClassVar[ResourceScope]
    RESOURCE_SCOPE_RUN: _ClassVar[ResourceScope]
    RESOURCE_SCOPE_WORKER: _ClassVar[ResourceScope]
NODE_KIND_UNSPECIFIED: NodeKind
NODE_KIND_CALL: NodeKind
NODE_KIND_GATHER: NodeKind
NODE_KIND_COLLECT: NodeKind
NODE_KIND_GATE: NodeKind
NODE_KIND_MAP: NodeKind
NODE_KIND_ROUTER: NodeKind
NODE_KIND_LITERAL: NodeKind
NODE_KIND_WAIT: NodeKind
NODE_KIND_RECV: NodeKind
EDGE_KIND_UNSPECIFIED: EdgeKind
EDGE_KIND_DATA: EdgeKind
EDGE_KIND_CONDITION: EdgeKind
EDGE_KIND_SEQUENCE: EdgeKind
EDGE_KIND_ITEMS: EdgeKind
EDGE_KIND_GATE: EdgeKind
EDGE_KIND_SELECTOR: EdgeKind
EDGE_KIND_ROUTE: EdgeKind
EDGE_KIND_AMOUNT: EdgeKind
MODE_UNSPECIFIED: Mode
MODE_BLOCKING: Mode
MODE_COMPUTE: Mode
RESOURCE_SCOPE_UNSPECIFIED: ResourceScope
RESOURCE_SCOPE_TASK: ResourceScope
RESOURCE_SCOPE_RUN: ResourceScope
RESOURCE_SCOPE_WORKER: ResourceScope

class Function(_message.Message):
    __slots__ = ("cid", "body", "name", "code_hash")
    CID_FIELD_NUMBER: _ClassVar[int]
    BODY_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    CODE_HASH_FIELD_NUMBER: _ClassVar[int]
    cid: bytes
    body: bytes
    name: str
    code_hash: bytes
    def __init__(self, cid: _Optional[bytes] = ..., body: _Optional[bytes] = ..., name: _Optional[str] = ..., code_hash: _Optional[bytes] = ...) -> None: ...

class RetryPolicy(_message.Message):
    __slots__ = ("max_attempts", "delay", "backoff", "jitter", "max_delay", "on")
    MAX_ATTEMPTS_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    BACKOFF_FIELD_NUMBER: _ClassVar[int]
    JITTER_FIELD_NUMBER: _ClassVar[int]
    MAX_DELAY_FIELD_NUMBER: _ClassVar[int]
    ON_FIELD_NUMBER: _ClassVar[int]
    max_attempts: int
    delay: _duration_pb2.Duration
    backoff: float
    jitter: float
    max_delay: _duration_pb2.Duration
    on: bytes
    def __init__(self, max_attempts: _Optional[int] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., backoff: _Optional[float] = ..., jitter: _Optional[float] = ..., max_delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., on: _Optional[bytes] = ...) -> None: ...

class Amount(_message.Message):
    __slots__ = ("name", "micros")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MICROS_FIELD_NUMBER: _ClassVar[int]
    name: str
    micros: int
    def __init__(self, name: _Optional[str] = ..., micros: _Optional[int] = ...) -> None: ...

class TaskSpec(_message.Message):
    __slots__ = ("kind", "function", "name", "asynchronous", "mode", "pure", "durable", "timeout", "retry", "amounts", "priority", "passthrough", "spawn", "cache_policy", "cluster_cache", "resources")
    KIND_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    ASYNCHRONOUS_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    PURE_FIELD_NUMBER: _ClassVar[int]
    DURABLE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    RETRY_FIELD_NUMBER: _ClassVar[int]
    AMOUNTS_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    PASSTHROUGH_FIELD_NUMBER: _ClassVar[int]
    SPAWN_FIELD_NUMBER: _ClassVar[int]
    CACHE_POLICY_FIELD_NUMBER: _ClassVar[int]
    CLUSTER_CACHE_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    kind: NodeKind
    function: int
    name: str
    asynchronous: bool
    mode: Mode
    pure: bool
    durable: bool
    timeout: _duration_pb2.Duration
    retry: RetryPolicy
    amounts: _containers.RepeatedCompositeFieldContainer[Amount]
    priority: int
    passthrough: bool
    spawn: bool
    cache_policy: bytes
    cluster_cache: bool
    resources: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, kind: _Optional[_Union[NodeKind, str]] = ..., function: _Optional[int] = ..., name: _Optional[str] = ..., asynchronous: bool = ..., mode: _Optional[_Union[Mode, str]] = ..., pure: bool = ..., durable: bool = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., retry: _Optional[_Union[RetryPolicy, _Mapping]] = ..., amounts: _Optional[_Iterable[_Union[Amount, _Mapping]]] = ..., priority: _Optional[int] = ..., passthrough: bool = ..., spawn: bool = ..., cache_policy: _Optional[bytes] = ..., cluster_cache: bool = ..., resources: _Optional[_Iterable[int]] = ...) -> None: ...

class ResourceDefinition(_message.Message):
    __slots__ = ("name", "scope", "function", "requires", "function_index")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCOPE_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_FIELD_NUMBER: _ClassVar[int]
    REQUIRES_FIELD_NUMBER: _ClassVar[int]
    FUNCTION_INDEX_FIELD_NUMBER: _ClassVar[int]
    name: str
    scope: ResourceScope
    function: bytes
    requires: _containers.RepeatedScalarFieldContainer[str]
    function_index: int
    def __init__(self, name: _Optional[str] = ..., scope: _Optional[_Union[ResourceScope, str]] = ..., function: _Optional[bytes] = ..., requires: _Optional[_Iterable[str]] = ..., function_index: _Optional[int] = ...) -> None: ...

class NodeTimer(_message.Message):
    __slots__ = ("node", "delay", "topic")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DELAY_FIELD_NUMBER: _ClassVar[int]
    TOPIC_FIELD_NUMBER: _ClassVar[int]
    node: int
    delay: _duration_pb2.Duration
    topic: str
    def __init__(self, node: _Optional[int] = ..., delay: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., topic: _Optional[str] = ...) -> None: ...

class KeyPart(_message.Message):
    __slots__ = ("name", "digest", "input_plus_one")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    INPUT_PLUS_ONE_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: bytes
    input_plus_one: int
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[bytes] = ..., input_plus_one: _Optional[int] = ...) -> None: ...

class ValueKey(_message.Message):
    __slots__ = ("node", "parts", "known")
    NODE_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_FIELD_NUMBER: _ClassVar[int]
    node: int
    parts: _containers.RepeatedCompositeFieldContainer[KeyPart]
    known: bool
    def __init__(self, node: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[KeyPart, _Mapping]]] = ..., known: bool = ...) -> None: ...

class JumpTable(_message.Message):
    __slots__ = ("node", "keys", "targets_plus_one")
    NODE_FIELD_NUMBER: _ClassVar[int]
    KEYS_FIELD_NUMBER: _ClassVar[int]
    TARGETS_PLUS_ONE_FIELD_NUMBER: _ClassVar[int]
    node: int
    keys: bytes
    targets_plus_one: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, node: _Optional[int] = ..., keys: _Optional[bytes] = ..., targets_plus_one: _Optional[_Iterable[int]] = ...) -> None: ...

class JumpEntry(_message.Message):
    __slots__ = ("node", "inputs", "names")
    NODE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    NAMES_FIELD_NUMBER: _ClassVar[int]
    node: int
    inputs: _containers.RepeatedCompositeFieldContainer[InputUse]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, node: _Optional[int] = ..., inputs: _Optional[_Iterable[_Union[InputUse, _Mapping]]] = ..., names: _Optional[_Iterable[str]] = ...) -> None: ...

class InputUse(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, names: _Optional[_Iterable[int]] = ...) -> None: ...

class MapRange(_message.Message):
    __slots__ = ("first", "count")
    FIRST_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    first: int
    count: int
    def __init__(self, first: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class GraphChunk(_message.Message):
    __slots__ = ("functions", "specs", "blobs", "node_spec", "node_ids", "node_args", "node_edges", "edge_source", "edge_kind", "blob_args", "blob_inputs", "maps", "map_columns", "resources", "amount_names", "timers", "value_keys", "jumps", "entries")
    FUNCTIONS_FIELD_NUMBER: _ClassVar[int]
    SPECS_FIELD_NUMBER: _ClassVar[int]
    BLOBS_FIELD_NUMBER: _ClassVar[int]
    NODE_SPEC_FIELD_NUMBER: _ClassVar[int]
    NODE_IDS_FIELD_NUMBER: _ClassVar[int]
    NODE_ARGS_FIELD_NUMBER: _ClassVar[int]
    NODE_EDGES_FIELD_NUMBER: _ClassVar[int]
    EDGE_SOURCE_FIELD_NUMBER: _ClassVar[int]
    EDGE_KIND_FIELD_NUMBER: _ClassVar[int]
    BLOB_ARGS_FIELD_NUMBER: _ClassVar[int]
    BLOB_INPUTS_FIELD_NUMBER: _ClassVar[int]
    MAPS_FIELD_NUMBER: _ClassVar[int]
    MAP_COLUMNS_FIELD_NUMBER: _ClassVar[int]
    RESOURCES_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_NAMES_FIELD_NUMBER: _ClassVar[int]
    TIMERS_FIELD_NUMBER: _ClassVar[int]
    VALUE_KEYS_FIELD_NUMBER: _ClassVar[int]
    JUMPS_FIELD_NUMBER: _ClassVar[int]
    ENTRIES_FIELD_NUMBER: _ClassVar[int]
    functions: _containers.RepeatedCompositeFieldContainer[Function]
    specs: _containers.RepeatedCompositeFieldContainer[TaskSpec]
    blobs: _containers.RepeatedCompositeFieldContainer[_value_pb2.BlobRef]
    node_spec: _containers.RepeatedScalarFieldContainer[int]
    node_ids: bytes
    node_args: _containers.RepeatedScalarFieldContainer[bytes]
    node_edges: _containers.RepeatedScalarFieldContainer[int]
    edge_source: _containers.RepeatedScalarFieldContainer[int]
    edge_kind: _containers.RepeatedScalarFieldContainer[EdgeKind]
    blob_args: _containers.RepeatedScalarFieldContainer[int]
    blob_inputs: _containers.RepeatedScalarFieldContainer[int]
    maps: _containers.RepeatedCompositeFieldContainer[MapRange]
    map_columns: _containers.RepeatedScalarFieldContainer[int]
    resources: _containers.RepeatedCompositeFieldContainer[ResourceDefinition]
    amount_names: _containers.RepeatedScalarFieldContainer[str]
    timers: _containers.RepeatedCompositeFieldContainer[NodeTimer]
    value_keys: _containers.RepeatedCompositeFieldContainer[ValueKey]
    jumps: _containers.RepeatedCompositeFieldContainer[JumpTable]
    entries: _containers.RepeatedCompositeFieldContainer[JumpEntry]
    def __init__(self, functions: _Optional[_Iterable[_Union[Function, _Mapping]]] = ..., specs: _Optional[_Iterable[_Union[TaskSpec, _Mapping]]] = ..., blobs: _Optional[_Iterable[_Union[_value_pb2.BlobRef, _Mapping]]] = ..., node_spec: _Optional[_Iterable[int]] = ..., node_ids: _Optional[bytes] = ..., node_args: _Optional[_Iterable[bytes]] = ..., node_edges: _Optional[_Iterable[int]] = ..., edge_source: _Optional[_Iterable[int]] = ..., edge_kind: _Optional[_Iterable[_Union[EdgeKind, str]]] = ..., blob_args: _Optional[_Iterable[int]] = ..., blob_inputs: _Optional[_Iterable[int]] = ..., maps: _Optional[_Iterable[_Union[MapRange, _Mapping]]] = ..., map_columns: _Optional[_Iterable[int]] = ..., resources: _Optional[_Iterable[_Union[ResourceDefinition, _Mapping]]] = ..., amount_names: _Optional[_Iterable[str]] = ..., timers: _Optional[_Iterable[_Union[NodeTimer, _Mapping]]] = ..., value_keys: _Optional[_Iterable[_Union[ValueKey, _Mapping]]] = ..., jumps: _Optional[_Iterable[_Union[JumpTable, _Mapping]]] = ..., entries: _Optional[_Iterable[_Union[JumpEntry, _Mapping]]] = ...) -> None: ...

class GraphEnd(_message.Message):
    __slots__ = ("target", "node_count", "edge_count", "template_id", "params_digest")
    TARGET_FIELD_NUMBER: _ClassVar[int]
    NODE_COUNT_FIELD_NUMBER: _ClassVar[int]
    EDGE_COUNT_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_ID_FIELD_NUMBER: _ClassVar[int]
    PARAMS_DIGEST_FIELD_NUMBER: _ClassVar[int]
    target: int
    node_count: int
    edge_count: int
    template_id: bytes
    params_digest: bytes
    def __init__(self, target: _Optional[int] = ..., node_count: _Optional[int] = ..., edge_count: _Optional[int] = ..., template_id: _Optional[bytes] = ..., params_digest: _Optional[bytes] = ...) -> None: ...
