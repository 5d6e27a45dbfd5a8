"""OpenAI Chat Completions: what is read of replies that pass through, and the codec for those that are translated.

Gathers the names that all dialects share; see `wire/dialects.py`.
"""

from eggpool.wire.chat.passing import (
    KEEPALIVE,
    STREAM_MARKS,
    error_type,
    model_entry,
    models_page,
    read_error,
    read_event,
    read_long_event,
    read_reply,
    write_count,
    write_error,
    write_error_event,
)
from eggpool.wire.chat.reply import reply_events, write_reply
from eggpool.wire.chat.request import echo_of, read_request, write_request
from eggpool.wire.chat.stream import StreamReader, StreamWriter

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
    "write_count",
    "write_error",
    "write_error_event",
    "write_reply",
    "write_request",
]
