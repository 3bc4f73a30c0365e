from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LogStream(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LOG_STREAM_UNSPECIFIED: _ClassVar[LogStream]
    LOG_STREAM_STDOUT: _ClassVar[LogStream]
    LOG_STREAM_STDERR: _ClassVar[LogStream]
LOG_STREAM_UNSPECIFIED: LogStream
LOG_STREAM_STDOUT: LogStream
LOG_STREAM_STDERR: LogStream

class Value(_message.Message):
    __slots__ = ("inline", "object", "blob", "list", "compound", "item", "deferred")
    INLINE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    LIST_FIELD_NUMBER: _ClassVar[int]
    COMPOUND_FIELD_NUMBER: _ClassVar[int]
    ITEM_FIELD_NUMBER: _ClassVar[int]
    DEFERRED_FIELD_NUMBER: _ClassVar[int]
    inline: bytes
    object: ObjectRef
    blob: BlobRef
    list: ValueList
    compound: CompoundValue
    item: ItemValue
    deferred: DeferredValue
    def __init__(self, inline: _Optional[bytes] = ..., object: _Optional[_Union[ObjectRef, _Mapping]] = ..., blob: _Optional[_Union[BlobRef, _Mapping]] = ..., list: _Optional[_Union[ValueList, _Mapping]] = ..., compound: _Optional[_Union[CompoundValue, _Mapping]] = ..., item: _Optional[_Union[ItemValue, _Mapping]] = ..., deferred: _Optional[_Union[DeferredValue, _Mapping]] = ...) -> None: ...

class ValueList(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[Value]
    def __init__(self, items: _Optional[_Iterable[_Union[Value, _Mapping]]] = ...) -> None: ...

class CompoundValue(_message.Message):
    __slots__ = ("template", "inputs", "template_blob")
    TEMPLATE_FIELD_NUMBER: _ClassVar[int]
    INPUTS_FIELD_NUMBER: _ClassVar[int]
    TEMPLATE_BLOB_FIELD_NUMBER: _ClassVar[int]
    template: bytes
    inputs: _containers.RepeatedCompositeFieldContainer[Value]
    template_blob: BlobRef
    def __init__(self, template: _Optional[bytes] = ..., inputs: _Optional[_Iterable[_Union[Value, _Mapping]]] = ..., template_blob: _Optional[_Union[BlobRef, _Mapping]] = ...) -> None: ...

class ItemValue(_message.Message):
    __slots__ = ("list", "blob", "index")
    LIST_FIELD_NUMBER: _ClassVar[int]
    BLOB_FIELD_NUMBER: _ClassVar[int]
    INDEX_FIELD_NUMBER: _ClassVar[int]
    list: ObjectRef
    blob: BlobRef
    index: int
    def __init__(self, list: _Optional[_Union[ObjectRef, _Mapping]] = ..., blob: _Optional[_Union[BlobRef, _Mapping]] = ..., index: _Optional[int] = ...) -> None: ...

class DeferredValue(_message.Message):
    __slots__ = ("run_id", "node")
    RUN_ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    run_id: str
    node: int
    def __init__(self, run_id: _Optional[str] = ..., node: _Optional[int] = ...) -> None: ...

class ObjectRef(_message.Message):
    __slots__ = ("attempt", "size_bytes", "holders", "maker")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    MAKER_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    size_bytes: int
    holders: _containers.RepeatedScalarFieldContainer[str]
    maker: str
    def __init__(self, attempt: _Optional[int] = ..., size_bytes: _Optional[int] = ..., holders: _Optional[_Iterable[str]] = ..., maker: _Optional[str] = ...) -> None: ...

class BlobRef(_message.Message):
    __slots__ = ("cid", "size_bytes")
    CID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    cid: bytes
    size_bytes: int
    def __init__(self, cid: _Optional[bytes] = ..., size_bytes: _Optional[int] = ...) -> None: ...

class TaskError(_message.Message):
    __slots__ = ("type", "message", "traceback", "pickled")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRACEBACK_FIELD_NUMBER: _ClassVar[int]
    PICKLED_FIELD_NUMBER: _ClassVar[int]
    type: str
    message: str
    traceback: str
    pickled: bytes
    def __init__(self, type: _Optional[str] = ..., message: _Optional[str] = ..., traceback: _Optional[str] = ..., pickled: _Optional[bytes] = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("attempt", "stream", "text")
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    attempt: int
    stream: LogStream
    text: str
    def __init__(self, attempt: _Optional[int] = ..., stream: _Optional[_Union[LogStream, str]] = ..., text: _Optional[str] = ...) -> None: ...
