"""What the books cost: CPU time of one finished request on the thread that books it and in the thread that writes.

    python bench/books.py --requests 20000 --rate 2500

A request here is what the pool books of a small one: begun, one attempt, the end, into a real file. It is measured
twice: with a calling thread that sleeps between requests, and with one that works, as an event loop under load does and
then fights with the writer over the interpreter. Everything runs on one core. The records are made outside the measure.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench import measure
from eggpool.domain import (
    AccountLabel,
    AttemptRecord,
    Cost,
    Dialect,
    Exactness,
    Outcome,
    Price,
    RequestBegun,
    RequestRecord,
    Usage,
    UsageSource,
)
from eggpool.engine.runtime import tune_process
from eggpool.store.db import Database
from eggpool.store.ledger import Ledger

CONCURRENT = 32  # requests that have begun and not ended
BURST = 8  # requests booked without a pause
ACCOUNTS = (AccountLabel("alpha/one"), AccountLabel("alpha/two"))
PRICE = Price(input=3_000_000_000, output=15_000_000_000, cache_read=300_000_000, source="config")
DECISION = '{"could":2,"refused":{},"tried":[["alpha/one",null]]}'


class Figures(NamedTuple):
    """Microseconds of CPU for one request."""

    calling: float
    writing: float


def records(request_id: int, now_ms: int) -> tuple[RequestBegun, RequestRecord, AttemptRecord]:
    """What one request leaves, no two alike."""
    account, size = ACCOUNTS[request_id % 2], request_id % 997
    began = RequestBegun(request_id, "default", account, "bench-model", Dialect.CHAT, False, now_ms)
    ended = RequestRecord(
        id=request_id,
        client="default",
        client_address="127.0.0.1",
        dialect=Dialect.CHAT,
        path="/v1/chat/completions",
        model_asked="bench-model",
        streamed=False,
        outcome=Outcome.COMPLETED,
        status=200,
        started_at_ms=now_ms,
        ended_at_ms=now_ms + 12,
        total_us=12_000 + size,
        attempts=1,
        account=account,
        model_served="bench-model",
        upstream_dialect=Dialect.CHAT,
        usage=Usage(400 + size, 300, 0, 0, 120 + size, 0, None),
        usage_source=UsageSource.REPORTED,
        cost=Cost(3_000_000 + size, Exactness.DERIVED),
        price=PRICE,
        queue_us=150,
        connect_us=0,
        first_byte_us=9_000 + size,
        first_event_us=9_100 + size,
        bytes_received=1_500,
        bytes_emitted=1_800,
        upstream_request_id=f"req_{request_id:020d}",
        decision=DECISION,
    )
    attempt = AttemptRecord(
        request_id=request_id,
        number=1,
        account=account,
        model="bench-model",
        dialect=Dialect.CHAT,
        started_at_ms=now_ms,
        status=200,
        connect_us=0,
        first_byte_us=8_900 + size,
        total_us=11_900 + size,
        upstream_request_id=f"req_{request_id:020d}",
        bytes_received=1_800,
    )
    return began, ended, attempt


def rest(until: float) -> None:
    """Sleep."""
    time.sleep(max(0.0, until - time.monotonic()))


def work(until: float) -> None:
    """Keep the interpreter busy, and stop for input and output now and then, as an event loop does."""
    while time.monotonic() < until:
        sum(range(1_000))
        os.sched_yield()


def measured(path: Path, requests: int, rate: float, pause: Callable[[float], None]) -> Figures:
    """Book that many requests into a new file, at that rate in requests per second."""
    database = Database.open(path)
    try:
        ledger = Ledger(database)
        (writer,) = (thread.ident for thread in threading.enumerate() if thread.name == "eggpool-books")
        clock = time.pthread_getcpuclockid(writer or 0)
        open_now: deque[tuple[RequestRecord, AttemptRecord]] = deque()
        calling = 0.0
        began_writing, began = time.clock_gettime(clock), time.monotonic()
        for number in range(0, requests, BURST):
            now_ms = time.time_ns() // 1_000_000
            new = [records(ledger.new_id(now_ms), now_ms) for _ in range(BURST)]
            started = time.thread_time()
            for begin, end, attempt in new:
                ledger.begun(begin)
                open_now.append((end, attempt))
                if len(open_now) > CONCURRENT:
                    ended, tried = open_now.popleft()
                    ledger.request(ended, [tried])
            calling += time.thread_time() - started
            pause(began + (number + BURST) / rate)
        for ended, tried in open_now:
            ledger.request(ended, [tried])
        while database.lag_ms:
            time.sleep(0.01)
        writing = time.clock_gettime(clock) - began_writing
    finally:
        database.close()
    return Figures(calling / requests * 1e6, writing / requests * 1e6)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=2_500.0, help="requests per second")
    options = parser.parse_args()
    os.sched_setaffinity(0, {measure.cores()[0]})
    tune_process()
    print("µs of CPU for one request   calling thread   writer thread")
    for name, pause in (("calling thread rests", rest), ("calling thread works", work)):
        with tempfile.TemporaryDirectory(prefix="eggpool-books-") as folder:
            figures = measured(Path(folder) / "books.sqlite3", options.requests, options.rate, pause)
        print(f"{name:<28}{figures.calling:>14.1f}{figures.writing:>16.1f}")


if __name__ == "__main__":
    main()
