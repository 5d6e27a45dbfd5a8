"""Anthropic Messages: what is read of replies that pass through, and the codec for those that are translated.

Gathers the names that all dialects share; see `wire/dialects.py`.
"""

from eggpool.wire.messages.passing import (
    KEEPALIVE,
    STREAM_MARKS,
    error_type,
    model_entry,
    models_page,
    read_error,
    read_event,
    read_long_event,
    read_reply,
    write_error,
    write_error_event,
)
from eggpool.wire.messages.reply import reply_events, write_reply
from eggpool.wire.messages.request import echo_of, read_request, write_request
from eggpool.wire.messages.stream import StreamReader, StreamWriter

__all__ = [
    "KEEPALIVE",
    "STREAM_MARKS",
    "StreamReader",
    "StreamWriter",
    "echo_of",
    "error_type",
    "model_entry",
    "models_page",
    "read_error",
    "read_event",
    "read_long_event",
    "read_reply",
    "read_request",
    "reply_events",
    "write_error",
    "write_error_event",
    "write_reply",
    "write_request",
]
