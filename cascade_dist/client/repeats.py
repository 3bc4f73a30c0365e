"""Submits that repeat an earlier one: one call, with other scalars as arguments or none.

What such submits share is kept as bytes, by which the scheduler knows them; the run's id, the node's id and
its arguments are fields beside them. Put together that is the same message as one that was built as a whole.
The code is hashed again every time, unless it is watched and the same, so an edited function or helper is
noticed as ever.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, NamedTuple

from cascade_dist.codec.arguments import plain_payload
from cascade_dist.codec.functions import FunctionCache
from cascade_dist.codec.references import Reference, reference_of
from cascade_dist.graph.code_hash import CodeHasher
from cascade_dist.graph.code_watch import CodeWatch, watch
from cascade_dist.graph.encoding import SCALARS
from cascade_dist.graph.identity import Specs, scalars_content
from cascade_dist.language.lazy import LazyResult
from cascade_dist.v1 import client_pb2 as pb
from cascade_dist.wire.fields import field

if TYPE_CHECKING:
    from cascade_dist.client.link import Link
    from cascade_dist.graph.model import TaskSpec
    from cascade_dist.language.task import Task

__all__ = ["Repeat", "frame", "keep", "repeat"]

_MAX = 64
"""Calls that are remembered; past it all are forgotten, and learned again."""

_SUBMIT = bytes([pb.OpenRequest.SUBMIT_FIELD_NUMBER << 3 | 2])
_RUN_ID = bytes([pb.Submit.RUN_ID_FIELD_NUMBER << 3 | 2])
_HEAD = bytes([pb.Submit.HEAD_FIELD_NUMBER << 3 | 2])
_NODE_ID = bytes([pb.Submit.NODE_ID_FIELD_NUMBER << 3 | 2])
_ARGS = bytes([pb.Submit.ARGS_FIELD_NUMBER << 3 | 2])
_FIELDS = frozenset(("functions", "specs", "node_spec", "node_edges", "node_ids", "node_args"))
"""What the chunk of such a call may have; what has more is not understood here."""
_PAYLOAD_MAX = 16 << 10
"""Calls with more bytes of arguments are compiled."""


class _Call(NamedTuple):
    """What submits of one call share."""

    spec: TaskSpec
    cid: bytes
    """Of the function."""
    functions: FunctionCache
    head: bytes
    """The field with the submit without what differs."""
    template_id: bytes
    params_digest: bytes
    content: bytes
    """The id of the node of a call without arguments."""
    own: bytes
    """The fields that say so."""


class _Watched(NamedTuple):
    """What the calls of a task are, as long as its code is as it was."""

    spec: TaskSpec
    watch: CodeWatch
    reference: Reference | None
    """The name that its function travels by; None: by value."""
    cid: bytes
    """Of the function."""


class Repeat(NamedTuple):
    """A submit that repeats an earlier one."""

    shared: bytes
    own: bytes
    """The fields that are this call's alone."""
    functions: FunctionCache
    identity: tuple[bytes, bytes, bytes]
    """As `Compilation` tells it: the template's id, the target's, the digest of the params."""


_calls: dict[tuple[int, Hashable], _Call] = {}
"""By the identity of the spec, which is kept, and the options."""
_specs: dict[int, _Watched] = {}
"""By the identity of the task, which the watch keeps."""


def repeat(target: Any, options: Hashable, link: Link | None) -> Repeat | None:
    """What to send for a call that is like an earlier one; None when it has to be compiled.

    Args:
        target: the target of a submit without params.
        options: all that the submit's options depend on.
        link: where it is to go.

    Raises:
        GraphError: as compiling raises it.
    """
    if not _calls or link is None or type(target) is not LazyResult or target.chain is not None:
        return None
    args = target.args
    if target.kwargs or not SCALARS.issuperset(map(type, args)):
        return None
    spec, cid = _code_of(target.task)
    call = _calls.get((id(spec), options))
    if call is None or call.cid not in link.known:
        return None
    if (cid or FunctionCache().encode(spec.task, spec.code_hash).cid) != call.cid:
        return None
    content, own = call.content, call.own
    if args:
        payload = plain_payload(args, {})
        if payload is None or len(payload) > min(_PAYLOAD_MAX, link.inline_max or _PAYLOAD_MAX):
            return None
        content = scalars_content(spec, args)
        own = _own_fields(content, payload)
    return Repeat(call.head, own, call.functions, (call.template_id, content, call.params_digest))


def _own_fields(content: bytes, payload: bytes) -> bytes:
    return field(_NODE_ID, content) + field(_ARGS, payload)


def _code_of(task: Task[Any]) -> tuple[TaskSpec, bytes]:
    """The spec of a task's calls, and the CID of its function where that is known without encoding it."""
    watched = _specs.get(id(task))
    if watched is None or not watched.watch.holds():
        return Specs(CodeHasher()).of(task, None), b""
    return watched.spec, watched.cid if _reference(task) == watched.reference else b""


def _reference(task: Task[Any]) -> Reference | None:
    return reference_of(task) or reference_of(task.func)


def frame(run_id: str, found: Repeat) -> bytes:
    """The serialized OpenRequest."""
    return field(_SUBMIT, found.shared + found.own + field(_RUN_ID, run_id.encode()))


def keep(target: Any, options: Hashable, submit: pb.Submit, functions: FunctionCache) -> None:
    """Learns from a submit that was compiled, if it is one that later ones may repeat.

    Args:
        target: its target.
        options: as for `repeat`.
        submit: all of it.
        functions: what it encoded.
    """
    if type(target) is not LazyResult or target.chain is not None or target.kwargs:
        return
    chunk = submit.chunk
    if len(chunk.node_args) != 1 or len(chunk.functions) != 1 or chunk.functions[0].body:
        return
    if not SCALARS.issuperset(map(type, target.args)):
        return
    if not {entry.name for entry, _ in chunk.ListFields()} <= _FIELDS:
        return
    spec = Specs(CodeHasher()).of(target.task, None)
    if spec.retry is not None or not spec.code_hash:  # such a spec is made anew for every submit
        return
    if scalars_content(spec, target.args) != chunk.node_ids:
        return  # the code has just been changed
    shared = pb.Submit()
    shared.CopyFrom(submit)
    shared.ClearField("run_id")
    shared.chunk.ClearField("node_ids")
    shared.chunk.ClearField("node_args")
    if len(_calls) >= _MAX:
        _calls.clear()
        _specs.clear()
    cid = chunk.functions[0].cid
    bare = scalars_content(spec, ())
    if (held := watch(target.task)) is not None:
        _specs[id(target.task)] = _Watched(spec, held, _reference(target.task), cid)
    _calls[id(spec), options] = _Call(
        spec,
        cid,
        functions,
        field(_HEAD, shared.SerializeToString()),
        submit.end.template_id,
        submit.end.params_digest,
        bare,
        _own_fields(bare, b""),
    )
