"""The clients: a process of its own that sends requests, reads the answers and tells what it saw as one JSON line.

`closed` keeps N connections busy for so many seconds; every request that was begun is read to its end. `paced` opens
streams spread over time and measures how late each event is; `long` does so with streams of ten seconds. `first`
measures one client's wait for its first event. `hold` opens streams, tells when each has had its first byte, and
leaves when it is told to.
Run it with `python -m bench.load MODE ...`; the key is in BENCH_KEY, the address in BENCH_ADDRESS.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import sys
import time
from collections.abc import Callable
from typing import cast

import uvloop

from bench import bodies
from bench.upstream import LAST, LAST_OF_MESSAGES, OUTPUT_TOKENS, SENT

TIMEOUT_S = 60.0
STAGGER_S = 0.0068  # between the starts of paced streams: not a fraction of 20 ms, so their events do not meet

_LENGTH = re.compile(rb"(?i)\r\ncontent-length:[ \t]*(\d+)")
_END_OF_CHUNKS = b"0\r\n\r\n"
_TAIL_BYTES = 160

MODEL_OF = {
    "small": "plain",
    "burst": "stream-200-0",
    "paced": "stream-200-20",
    "translated": "stream-200-20",
    "reversed": "stream-200-20",
    "long": "stream-200-50",
    "large": "stream-200-0",
}

MESSAGES = frozenset({"translated"})
"""What is asked in the Messages dialect; all else is Chat Completions."""

EVENTS = OUTPUT_TOKENS  # of a paced stream, a token each


class Client(asyncio.Protocol):
    """One connection. Calls `done(client, ok)` after each answer; `latencies` gets each event's delay in ns."""

    def __init__(self, done: Callable[[Client, bool], None], latencies: list[int] | None = None) -> None:
        self._done = done
        self._latencies = latencies
        self._head = b""
        self._missing = -1  # bytes of the body to come; -1 for chunks
        self._in_head = True
        self._ok = False
        self._tail = self._partial = b""
        self._streams = False
        self._busy = False
        self.sent_at_ns = 0
        self.first_after_ns = 0  # from sending to the first piece of the body
        self.on_first: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way out."""
        self.transport = cast(asyncio.Transport, transport)  # those of uvloop do not say that they are one

    def send(self, request: bytes) -> None:
        """Send a request; the one before was answered."""
        self._head = self._tail = self._partial = b""
        self._in_head = self._busy = True
        self.first_after_ns = 0
        self.sent_at_ns = time.monotonic_ns()
        self.transport.write(request)

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that is not whole yet is a failure."""
        if self._busy:
            self._end(False)

    def data_received(self, data: bytes) -> None:
        """Take bytes of the answer."""
        now = time.monotonic_ns()
        if self._in_head:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            if end < 0:
                return
            data = self._head[end + 4 :]
            self._in_head = False
            self._ok = self._head.startswith(b"HTTP/1.1 200")
            length = _LENGTH.search(self._head, 0, end)
            self._streams = length is None
            self._missing = int(length[1]) if length else -1
        if data and not self.first_after_ns:
            self.first_after_ns = now - self.sent_at_ns
            if self.on_first is not None:
                self.on_first()
        if not self._streams:
            self._missing -= len(data)
            if self._missing <= 0:
                self._end(self._ok and self._missing == 0)
            return
        if self._latencies is not None:
            # What lies before the last line end is whole; an event that was cut is found with what follows it.
            data = self._partial + data
            whole = data.rfind(b"\n") + 1
            self._partial = data[whole:]
            for match in SENT.finditer(data, 0, whole):
                self._latencies.append(now - int(match[1]))
        self._tail = (self._tail + data)[-_TAIL_BYTES:]
        if self._tail.endswith(_END_OF_CHUNKS):
            self._end(self._ok and (LAST in self._tail or LAST_OF_MESSAGES.rstrip() in self._tail))

    def _end(self, ok: bool) -> None:
        self._busy = False
        self._done(self, ok)


class Requests:
    """Ready-made requests, handed out in turn."""

    def __init__(self, port: int, prepared: list[bytes], path: str = "/v1/chat/completions") -> None:
        head = (
            "POST %s HTTP/1.1\r\nhost: 127.0.0.1:%d\r\nauthorization: Bearer %s\r\n"
            "content-type: application/json\r\naccept: */*\r\nuser-agent: eggpool-bench\r\ncontent-length: %d\r\n\r\n"
        )
        key = os.environ["BENCH_KEY"]
        self._all = [(head % (path, port, key, len(body))).encode() + body for body in prepared]
        self._next = 0

    def next(self) -> bytes:
        """The next one."""
        self._next += 1
        return self._all[self._next % len(self._all)]


async def closed(port: int, kind: str, connections: int, seconds: float) -> dict[str, object]:
    """Each connection sends its next request when the last one was answered, until the time is over."""
    loop = asyncio.get_running_loop()
    requests = Requests(port, prepared(kind))
    finished: asyncio.Future[None] = loop.create_future()
    good = bad = 0
    running = connections
    until = 0.0

    def done(client: Client, ok: bool) -> None:
        nonlocal good, bad, running
        good += ok
        bad += not ok
        if ok and loop.time() < until:
            client.send(requests.next())
            return
        running -= 1
        client.transport.close()
        if running == 0:
            finished.set_result(None)

    clients = [await _connect(port, Client(done)) for _ in range(connections)]
    until = loop.time() + seconds
    for client in clients:
        client.send(requests.next())
    await asyncio.wait_for(finished, seconds + TIMEOUT_S)
    return {"completed": good, "failed": bad, "cut": 0}


async def paced(port: int, streams: int, kind: str = "paced") -> dict[str, object]:
    """Streams that begin one after the other; how late each event comes, in microseconds."""
    loop = asyncio.get_running_loop()
    requests = Requests(port, prepared(kind), "/v1/messages" if kind in MESSAGES else "/v1/chat/completions")
    finished: asyncio.Future[None] = loop.create_future()
    latencies: list[int] = []
    firsts: list[int] = []
    good = bad = 0

    def done(client: Client, ok: bool) -> None:
        nonlocal good, bad
        good += ok
        bad += not ok
        firsts.append(client.first_after_ns)
        client.transport.close()
        if good + bad == streams:
            finished.set_result(None)

    began = loop.time()
    for number in range(streams):
        await asyncio.sleep(began + number * STAGGER_S - loop.time())
        (await _connect(port, Client(done, latencies))).send(requests.next())
    await asyncio.wait_for(finished, TIMEOUT_S)
    return {
        "completed": good,
        "failed": bad,
        "cut": 0,
        "events": len(latencies) or good * EVENTS,  # a translation has no word for the instant of sending
        "p50_us": percentile(latencies, 50) / 1000,
        "p99_us": percentile(latencies, 99) / 1000,
        "first_p50_us": percentile(firsts, 50) / 1000,
        "first_p99_us": percentile(firsts, 99) / 1000,
    }


async def long(port: int, streams: int) -> dict[str, object]:
    """The same with streams of ten seconds."""
    return await paced(port, streams, "long")


async def translated(port: int, streams: int) -> dict[str, object]:
    """Paced streams in the Messages dialect."""
    return await paced(port, streams, "translated")


async def first(port: int, count: int) -> dict[str, object]:
    """One client on one connection: how long each stream's first event takes, in microseconds."""
    requests = Requests(port, bodies.small("stream-3-2", stream=True))
    firsts: list[int] = []
    good = 0
    answered = asyncio.Event()

    def done(client: Client, ok: bool) -> None:
        nonlocal good
        good += ok
        firsts.append(client.first_after_ns)
        answered.set()

    client = await _connect(port, Client(done))
    for _ in range(count):
        answered.clear()
        client.send(requests.next())
        await asyncio.wait_for(answered.wait(), TIMEOUT_S)
        await asyncio.sleep(0.005)
    client.transport.close()
    return {"completed": good, "failed": count - good, "cut": 0, "first_p50_us": percentile(firsts, 50) / 1000}


async def hold(port: int, streams: int) -> dict[str, object]:
    """Open streams at the same time; the line `open` says that each has had its first byte."""
    loop = asyncio.get_running_loop()
    requests = Requests(port, bodies.small("stream-5-2500", stream=True))
    finished: asyncio.Future[None] = loop.create_future()
    good = bad = opened = 0
    firsts: list[int] = []

    def done(client: Client, ok: bool) -> None:
        nonlocal good, bad
        good += ok
        bad += not ok
        firsts.append(client.first_after_ns)
        client.transport.close()
        if good + bad == streams:
            finished.set_result(None)

    def on_first() -> None:
        nonlocal opened
        opened += 1
        if opened == streams:
            print("open", flush=True)

    began = loop.time()
    for number in range(streams):
        await asyncio.sleep(began + number * 0.003 - loop.time())
        client = await _connect(port, Client(done))
        client.on_first = on_first
        client.send(requests.next())
    await asyncio.wait_for(finished, TIMEOUT_S)
    return {
        "completed": good,
        "failed": bad,
        "cut": 0,
        "opened": opened,
        "first_p50_us": percentile(firsts, 50) / 1000,
        "first_max_us": max(firsts) / 1000,
    }


def prepared(kind: str) -> list[bytes]:
    """The bodies of a case."""
    model = MODEL_OF[kind]
    if kind in MESSAGES:
        return bodies.small_messages(model)
    return bodies.large(model) if kind == "large" else bodies.small(model, stream=model != "plain")


def percentile(values: list[int], percent: int) -> float:
    """By nearest rank; 0 when there are no values."""
    if not values:
        return 0.0
    return float(sorted(values)[(len(values) * percent + 99) // 100 - 1])


async def _connect(port: int, client: Client) -> Client:
    await asyncio.get_running_loop().create_connection(lambda: client, os.environ["BENCH_ADDRESS"], port)
    return client


MODES = {
    "paced": paced,
    "translated": translated,
    "reversed": paced,
    "long": long,
    "first": first,
    "hold": hold,
}


async def main(mode: str, port: int, *rest: str) -> None:
    """Do what the arguments say and print the result."""
    gc.collect()
    gc.disable()  # a pause here would look like a delay of the proxy
    if mode == "closed":
        result = await closed(port, rest[0], int(rest[1]), float(rest[2]))
    else:
        result = await MODES[mode](port, int(rest[0]))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
