"""Messages for nodes that wait for one."""

from __future__ import annotations

from typing import Any

from cascade_dist.codec.graph_pickler import ByValuePickler
from cascade_dist.codec.values import INLINE_BYTES_MAX
from cascade_dist.errors import SerializationError
from cascade_dist.language.structural import checked_topic
from cascade_dist.v1 import client_pb2 as pb

__all__ = ["request"]


def request(topic: str, value: Any, *, retain: bool) -> pb.SendMessageRequest:
    """What is sent for a message.

    Raises:
        SerializationError: the value cannot be pickled.
        ValueError: it is larger than what travels inline, or the topic is none.
    """
    checked_topic(topic)
    if retain and value is None:
        return pb.SendMessageRequest(topic=topic, retain=True)
    try:
        payload = ByValuePickler().run(value).pickled()
    except Exception as error:
        raise SerializationError(f"the message for {topic!r} cannot be pickled: {error}") from error
    if len(payload) > INLINE_BYTES_MAX:
        raise ValueError(
            f"the message for {topic!r} has {len(payload):,} bytes, and a message has at most "
            f"{INLINE_BYTES_MAX:,}: send where the data is, such as a path or a URL"
        )
    return pb.SendMessageRequest(topic=topic, payload=payload, retain=retain)
