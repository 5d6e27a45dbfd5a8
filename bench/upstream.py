"""The provider that is measured against: as cheap as it can be, so that its core is never what is waited for.

A process of its own. It speaks Chat Completions, and Messages at paths that end so. The model's name says what is
answered: `plain` is a JSON reply, `stream-N-G` a streamed one of N events, one every G milliseconds, or all at once
when G is 0. Events carry the instant of their sending.
Run it with `python -m bench.upstream ADDRESS`; it prints its port.
"""

from __future__ import annotations

import asyncio
import gc
import json
import re
import sys
import time
from typing import cast

import uvloop

OUTPUT_TOKENS = 200  # told in each usage block
PLAIN_BYTES = 1_800
MODELS = ("plain", "stream-200-0", "stream-200-20", "stream-200-50", "stream-3-2", "stream-5-2500")
KNOWN_MODELS = 100  # in the list, the ones above included

SENT = re.compile(rb'"sent_ns":(\d+)')
LAST = b"data: [DONE]\n\n"

_MODEL = re.compile(rb'"model"\s*:\s*"(?:[^"/]*/)?([a-z0-9-]+)"')
_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*(\d+)")
_CHUNKED = re.compile(rb"(?i)\r\ntransfer-encoding:[ \t]*chunked")
_USAGE_WANTED = re.compile(rb'"include_usage"\s*:\s*true')
_STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"x-request-id: req_0123456789abcdef\r\ntransfer-encoding: chunked\r\n\r\n"
)
_EVENT = (
    b'data: {"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1790000000,"model":"%s",'
    b'"sent_ns":%d,"choices":[{"index":0,"delta":{%s"content":"%s"},"finish_reason":%s}]%s}\n\n'
)
_TEXTS = (b" the", b" returns", b" a", b" connection", b"_pool", b".\\n", b" if", b' \\"name\\"', b" error", b"()")
_USAGE = (
    b'"usage":{"prompt_tokens":1200,"completion_tokens":%d,"total_tokens":%d,'
    b'"prompt_tokens_details":{"cached_tokens":1024}}'
)
_MESSAGES_START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_0123456789","type":"message",'
    b'"role":"assistant","model":"%s","content":[],"stop_reason":null,"stop_sequence":null,'
    b'"usage":{"input_tokens":176,"cache_read_input_tokens":1024,"cache_creation_input_tokens":0,"output_tokens":1}}}\n\n'
    b'event: content_block_start\ndata: {"type":"content_block_start","index":0,'
    b'"content_block":{"type":"text","text":""}}\n\n'
)
_MESSAGES_DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"sent_ns":%d,'
    b'"delta":{"type":"text_delta","text":"%s"}}\n\n'
)
_MESSAGES_END = (
    b'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}\n\n'
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
    b'"usage":{"output_tokens":%d}}\n\n' % OUTPUT_TOKENS
)
LAST_OF_MESSAGES = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_USAGE_BLOCK = _USAGE % (OUTPUT_TOKENS, 1_200 + OUTPUT_TOKENS)
_USAGE_EVENT = (
    b'data: {"id":"chatcmpl-0123456789","object":"chat.completion.chunk","created":1790000000,"model":"%s",'
    b'"choices":[],' + _USAGE_BLOCK + b"}\n\n"
)


def event(model: bytes, number: int, *, last: bool, tells_usage: bool) -> bytes:
    """One event. Where the usage is asked for, each event but the last says that it has none, as OpenAI's do."""
    role = b'"role":"assistant",' if number == 0 else b""
    finish = b'"stop"' if last else b"null"
    usage = b',"usage":null' if tells_usage else b""
    return _EVENT % (model, time.monotonic_ns(), role, _TEXTS[number % len(_TEXTS)], finish, usage)


def messages_event(model: bytes, number: int) -> bytes:
    """One event of the Messages dialect; the first one with what stands before it."""
    delta = _MESSAGES_DELTA % (time.monotonic_ns(), _TEXTS[number % len(_TEXTS)])
    return _MESSAGES_START % model + delta if number == 0 else delta


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _plain_reply() -> bytes:
    head = (
        b'{"id":"chatcmpl-0123456789","object":"chat.completion","created":1790000000,"model":"plain",'
        b'"choices":[{"index":0,"message":{"role":"assistant","content":"'
    )
    tail = b'"},"logprobs":null,"finish_reason":"stop"}],' + _USAGE_BLOCK + b"}"
    text = b"The answer is in the second paragraph of the file. " * 40
    body = head + text[: PLAIN_BYTES - len(head) - len(tail)] + tail
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_0123456789abcdef\r\n"
        b"content-length: %d\r\n\r\n%s" % (len(body), body)
    )


def _plain_message() -> bytes:
    body = (
        b'{"id":"msg_0123456789","type":"message","role":"assistant","model":"plain",'
        b'"content":[{"type":"text","text":"The answer."}],"stop_reason":"end_turn","stop_sequence":null,'
        b'"usage":{"input_tokens":1200,"output_tokens":%d}}' % OUTPUT_TOKENS
    )
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def _models_reply() -> bytes:
    names = [*MODELS, *(f"another-model-{number}" for number in range(KNOWN_MODELS - len(MODELS)))]
    entries = [{"id": name, "object": "model", "created": 1790000000, "owned_by": "bench"} for name in names]
    body = json.dumps({"object": "list", "data": entries}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


PLAIN = _plain_reply()
PLAIN_MESSAGE = _plain_message()
MODEL_LIST = _models_reply()
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One connection, one request after the other."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._parts: list[bytes] = []
        self._missing = -1  # bytes of the request that are to come; -1 when its headers are not whole yet
        self._chunked = False
        self._timer: asyncio.TimerHandle | None = None
        self._model = b""
        self._events = self._number = 0
        self._gap_s = self._began = 0.0
        self._tells_usage = self._messages = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        self._transport = cast(asyncio.Transport, transport)  # those of uvloop do not say that they are one

    def connection_lost(self, exc: Exception | None) -> None:
        """The other side has had enough."""
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Collect a request; answer it when it is whole."""
        self._parts.append(data)
        if self._missing < 0:
            if not self._read_headers():
                return
        else:
            self._missing -= len(data)
        if self._chunked:
            self._missing = 0 if data.endswith(b"0\r\n\r\n") else 1
        if self._missing <= 0:
            # The model stands at the beginning of a request, what is wanted in a stream at its beginning or end.
            parts = self._parts
            request = parts[0] if len(parts) == 1 else b"".join([*parts[:2], *parts[2:][-2:]])
            self._parts = []
            self._missing = -1
            self._answer(request)

    def _read_headers(self) -> bool:
        if len(self._parts) > 1:
            self._parts = [b"".join(self._parts)]
        first = self._parts[0]
        end = first.find(b"\r\n\r\n")
        if end < 0:
            return False
        length = _LENGTH.search(first, 0, end)
        self._chunked = length is None and _CHUNKED.search(first, 0, end) is not None
        self._missing = int(length[1]) - (len(first) - end - 4) if length else 0
        return True

    def _answer(self, request: bytes) -> None:
        if request.startswith(b"GET "):
            self._transport.write(MODEL_LIST if request.split(b" ", 2)[1].endswith(b"/models") else NOT_FOUND)
            return
        found = _MODEL.search(request) or _MODEL.search(request.replace(b"\\", b""))
        model = found[1] if found else b"plain"
        self._messages = b"/messages " in request[: request.find(b"\r\n")]
        if not model.startswith(b"stream-"):
            self._transport.write(PLAIN_MESSAGE if self._messages else PLAIN)
            return
        _, events, gap_ms = model.split(b"-")
        self._model, self._events, self._gap_s = model, int(events), int(gap_ms) / 1000
        self._tells_usage = _USAGE_WANTED.search(request) is not None
        if self._gap_s == 0:
            pieces = [self._piece(number) for number in range(self._events)]
            self._transport.write(_STREAM_HEAD + b"".join(pieces))
            return
        self._number = 0
        self._began = self._loop.time()
        self._transport.write(_STREAM_HEAD)
        self._next()

    def _next(self) -> None:
        """Send the next event. The instants are fixed at the beginning, so that delays do not add up."""
        last = self._number == self._events - 1
        self._transport.write(self._piece(self._number))
        self._number += 1
        self._timer = None
        if not last:
            self._timer = self._loop.call_at(self._began + self._number * self._gap_s, self._next)

    def _piece(self, number: int) -> bytes:
        """An event in a chunk of its own, as providers send them; with the last one, what follows it."""
        last = number == self._events - 1
        if self._messages:
            piece = _chunk(messages_event(self._model, number))
            return piece + _chunk(_MESSAGES_END) + _chunk(LAST_OF_MESSAGES) + b"0\r\n\r\n" if last else piece
        piece = _chunk(event(self._model, number, last=last, tells_usage=self._tells_usage))
        if not last:
            return piece
        usage = _chunk(_USAGE_EVENT % self._model) if self._tells_usage else b""
        return piece + usage + _chunk(LAST) + b"0\r\n\r\n"


async def main(address: str) -> None:
    """Listen on a free port and print it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(loop), address, 0, backlog=4_096)
    print(server.sockets[0].getsockname()[1], flush=True)
    gc.collect()
    gc.disable()  # a pause here would look like a delay of the proxy; what is made here is freed by counting
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
