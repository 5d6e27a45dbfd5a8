"""The thread that writes: group commit, patience with a file that cannot be written, and the drain at the end.

The only read-write connection lives here. Everybody else appends facts, which never waits for the file.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import sys
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import partial
from itertools import chain

import msgspec

from eggpool.domain import EventRecord
from eggpool.errors import StoreError
from eggpool.store import facts
from eggpool.store.backlog import Backlog, Losses, Waiting
from eggpool.store.facts import AnyFact, Begun, Ended, Row, Step
from eggpool.store.ids import IdMaker

BATCH = 500  # facts of each kind in one transaction
FIRST_RETRY_S = 0.05
LONGEST_RETRY_S = 2.0
AWAKE = sys.maxsize  # no number of facts wakes a thread that does not wait for them

# Errors of SQLite that a fact's own content causes; every other one is the file's, and passes.
_THE_FACTS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError, sqlite3.NotSupportedError)

log = logging.getLogger(__name__)


class Job(msgspec.Struct):
    """A function that runs on the writing connection in a transaction of its own."""

    run: Callable[[sqlite3.Connection], object]
    done: Future[object]


class Writer:
    """Owns `conn` from the start of the thread on and closes it at the end.

    `put`, `flushed`, `run` and `close` may be called from any thread.
    """

    def __init__(
        self, conn: sqlite3.Connection, ids: IdMaker, backlog: Backlog, *, interval_s: float, busy_timeout_s: float
    ) -> None:
        self._conn = conn
        self._ids = ids
        self._backlog = backlog
        self._interval_s = interval_s
        self._busy_timeout_s = busy_timeout_s
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._wake_at = AWAKE  # so many waiting facts end the wait of the thread
        self._jobs: deque[Job] = deque()
        self._flushes: list[tuple[int, Future[bool]]] = []
        self._in_hand: list[Waiting] = []
        self._begun_rows: set[int] = set()  # requests whose begin is in the file; only the thread knows
        self._put = 0
        self._closing = False
        self._closed = False
        self._deadline = 0.0
        self._trouble_since: float | None = None
        self._thread = threading.Thread(target=self._main, name="eggpool-books", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def put(self, fact: AnyFact) -> None:
        """Append a fact. After the end of the thread it is dropped."""
        at = time.monotonic()
        with self._lock:
            if self._closed:
                return
            self._put += 1
            self._backlog.put(Waiting(self._put, at, fact))
            if self._wake_at != AWAKE and len(self._backlog) >= self._wake_at:
                self._wake_at = AWAKE
                self._wake.notify()

    def flushed(self) -> Future[bool]:
        """Commit what has been put so far at once; the result is whether that was done before the end."""
        future: Future[bool] = Future()
        with self._lock:
            if self._closed:
                future.set_result(self._oldest() is None)
            elif self._oldest() is None:
                future.set_result(True)
            else:
                waiting = [(number, other) for number, other in self._flushes if not other.cancelled()]
                self._flushes = [*waiting, (self._put, future)]
                self._wake.notify()
        return future

    def run(self, function: Callable[[sqlite3.Connection], object]) -> Future[object]:
        """Run a function in a transaction of its own. Its future raises StoreError when the file cannot be written."""
        job = Job(function, Future())
        with self._lock:
            if self._closing:
                job.done.set_exception(StoreError("The database is closed."))
            else:
                self._jobs.append(job)
                self._wake.notify()
        return job.done

    def lag_ms(self) -> int:
        """How long the oldest fact that is not in the file has waited."""
        with self._lock:
            oldest = self._oldest()
        return 0 if oldest is None else max(0, int((time.monotonic() - oldest.at) * 1000))

    def _oldest(self) -> Waiting | None:
        return min(self._in_hand, key=lambda item: item.number) if self._in_hand else self._backlog.oldest()

    def close(self, timeout_s: float) -> bool:
        """Write what waits, for at most about `timeout_s`, then end. Returns whether the thread has ended."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._deadline = time.monotonic() + timeout_s
            self._wake.notify()
        if self._thread.is_alive():
            # One try that is under way may wait for a locked file once more before it sees the deadline.
            self._thread.join(timeout_s + self._busy_timeout_s + 1.0)
        return not self._thread.is_alive()

    # The thread.

    def _main(self) -> None:
        try:
            while self._turn():
                pass
        finally:
            self._end()

    def _turn(self) -> bool:
        """Wait for something to do and do it; False when there will be nothing more."""
        with self._lock:
            self._wait()
            self._in_hand = self._backlog.take(BATCH)
            jobs, self._jobs = self._jobs, deque()
            closing = self._closing
        kept = self._write([item.fact for item in self._in_hand]) if self._in_hand else True
        with self._lock:
            self._in_hand = []
            ready = self._ready_flushes()
        for future in ready:
            _resolve(future, kept)
        for job in jobs:
            self._do(job)
        if closing:
            with self._lock:
                return len(self._backlog) > 0 and time.monotonic() < self._deadline
        return True

    def _wait(self) -> None:
        while not (self._closing or self._jobs or self._flushes or len(self._backlog) >= BATCH):
            oldest = self._backlog.oldest()
            if oldest is None:
                self._sleep(until_facts=1)
                continue
            left = oldest.at + self._interval_s - time.monotonic()
            if left <= 0:
                return
            self._sleep(until_facts=BATCH, timeout_s=left)

    def _sleep(self, until_facts: int, timeout_s: float | None = None) -> None:
        self._wake_at = until_facts
        self._wake.wait(timeout_s)
        self._wake_at = AWAKE

    def _ready_flushes(self) -> list[Future[bool]]:
        oldest = self._backlog.oldest()
        done = self._put if oldest is None else oldest.number - 1
        ready = [future for number, future in self._flushes if number <= done]
        self._flushes = [(number, future) for number, future in self._flushes if number > done]
        return ready

    def _write(self, batch: Sequence[AnyFact]) -> bool:
        """Commit a batch, however long the file refuses; False when the end came first."""
        pause = FIRST_RETRY_S
        while True:
            try:
                self._commit(batch)
            except sqlite3.Error as error:
                self._trouble(error, len(batch))
                self._forget_pages()
            else:
                self._fine()
                return True
            with self._lock:
                if self._closing:
                    left = self._deadline - time.monotonic()
                    if left <= 0:
                        self._give_up(batch)
                        return False
                    self._wake.wait(min(pause, left))
                else:
                    self._wake.wait_for(lambda: self._closing, pause)
            pause = min(pause * 2, LONGEST_RETRY_S)

    def _forget_pages(self) -> None:
        """Read the file anew at the next try: pages of a damaged one would stay in memory after it was put back."""
        with contextlib.suppress(sqlite3.Error):
            self._conn.execute("PRAGMA shrink_memory")

    def _commit(self, batch: Sequence[AnyFact]) -> None:
        """Write a batch; when a fact cannot be written for a reason of its own, all others. Raises sqlite3.Error when
        the file cannot be written."""
        try:
            self._commit_together(batch)
        except Exception as error:
            if _is_the_files(error):
                raise
            self._tell_refused(self._commit_singly(batch))
        self._begun_rows.update(fact.record.id for fact in batch if isinstance(fact, Begun))
        self._begun_rows.difference_update(fact.record.id for fact in batch if isinstance(fact, Ended))

    def _commit_together(self, batch: Sequence[AnyFact]) -> None:
        rows: defaultdict[str, list[Row]] = defaultdict(list)
        for fact in batch:
            for sql, row in self._steps(fact):
                rows[sql].append(row)
        with _Transaction(self._conn):
            for sql, values in rows.items():
                self._execute_all(sql, values)

    def _execute_all(self, sql: str, rows: Sequence[Row]) -> None:
        done = 0
        if sql in facts.WIDE:
            count, wide = facts.WIDE[sql]
            while len(rows) - done >= count:
                self._conn.execute(wide, list(chain.from_iterable(rows[done : done + count])))
                done += count
        self._conn.executemany(sql, rows[done:])

    def _commit_singly(self, batch: Sequence[AnyFact]) -> list[tuple[str, str]]:
        refused = []
        with _Transaction(self._conn):
            for kind, steps in chain.from_iterable(map(self._parts, batch)):
                self._conn.execute("SAVEPOINT fact")
                try:
                    for sql, row in steps():
                        self._conn.execute(sql, facts.mended(row))
                except Exception as error:
                    if _is_the_files(error):
                        raise
                    self._conn.execute("ROLLBACK TO fact")
                    refused.append((kind, type(error).__name__))
                self._conn.execute("RELEASE fact")
        return refused

    def _parts(self, fact: AnyFact) -> Iterator[tuple[str, Callable[[], Iterable[Step]]]]:
        """What of a fact is worth writing by itself: no request is lost for one of its tries."""
        if isinstance(fact, Ended) and fact.tries:
            yield fact.kind, partial(self._steps, fact.without_tries())
            yield "attempts", fact.try_steps
        else:
            yield fact.kind, partial(self._steps, fact)

    def _steps(self, fact: AnyFact) -> tuple[Step, ...]:
        if isinstance(fact, Ended) and fact.record.id in self._begun_rows:
            return (*fact.steps, facts.begun_gone(fact.record.id))
        return fact.steps

    def _do(self, job: Job) -> None:
        if not job.done.set_running_or_notify_cancel():
            return
        try:
            with _Transaction(self._conn):
                result = job.run(self._conn)
        except sqlite3.Error as error:
            job.done.set_exception(StoreError(f"The database cannot be written: {error}."))
        except BaseException as error:  # noqa: BLE001 - it belongs to the one who waits for the future
            job.done.set_exception(error)
        else:
            job.done.set_result(result)

    def _end(self) -> None:
        self._conn.close()
        with self._lock:
            self._closing = self._closed = True
            left = self._backlog.take(len(self._backlog))
            for item in left:
                self._backlog.losses.add(item.fact)
            losses = self._backlog.take_losses()
            flushes, self._flushes = self._flushes, []
            jobs, self._jobs = self._jobs, deque()
        if losses:
            log.error("the books were closed without %s", _loss_text(losses))
        for _, future in flushes:
            _resolve(future, False)
        for job in jobs:
            if job.done.set_running_or_notify_cancel():
                job.done.set_exception(StoreError("The database is closed."))

    # What people are told: once when it begins, once when it is over.

    def _trouble(self, error: sqlite3.Error, waiting: int) -> None:
        if self._trouble_since is not None:
            return
        self._trouble_since = time.monotonic()
        log.error("the books cannot be written (%s): requests go on, %d facts wait", error, waiting)
        self._event("books_delayed", f"the database cannot be written: {error}")

    def _fine(self) -> None:
        with self._lock:
            losses = self._backlog.take_losses() if self._backlog.half_empty else None
        if self._trouble_since is not None:
            seconds = time.monotonic() - self._trouble_since
            self._trouble_since = None
            log.warning("the books are written again after %.1f s", seconds)
            self._event("books_caught_up", f"the database is written again after {seconds:.1f} s")
        if losses:
            text = _loss_text(losses)
            log.error("too much waited for the database: the books lack %s", text)
            self._event("books_facts_lost", f"too much waited for the database: the books lack {text}")

    def _tell_refused(self, refused: Sequence[tuple[str, str]]) -> None:
        if not refused:
            return
        kinds = ", ".join(sorted({f"{kind} ({error})" for kind, error in refused}))
        log.error("the database refused %d facts for what they contain: %s", len(refused), kinds)
        if any(kind != "event" for kind, _ in refused):  # an event about an event could go on for ever
            self._event("books_facts_refused", f"{len(refused)} facts could not be written: {kinds}")

    def _give_up(self, batch: Sequence[AnyFact]) -> None:
        for fact in batch:
            self._backlog.losses.add(fact)

    def _event(self, kind: str, detail: str) -> None:
        now_ms = time.time_ns() // 1_000_000
        fact = facts.event(self._ids.next(now_ms), EventRecord(now_ms, kind, detail))
        self.put(fact)


class _Transaction:
    """BEGIN IMMEDIATE, then COMMIT, or ROLLBACK when anything fails."""

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn

    def __enter__(self) -> None:
        self._conn.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            try:
                self._conn.execute("COMMIT")
            except sqlite3.Error:
                self._rollback()
                raise
        else:
            self._rollback()

    def _rollback(self) -> None:
        if self._conn.in_transaction:
            self._conn.execute("ROLLBACK")


def _is_the_files(error: BaseException) -> bool:
    return isinstance(error, sqlite3.DatabaseError) and not isinstance(error, _THE_FACTS)


def _resolve(future: Future[bool], value: bool) -> None:
    if future.set_running_or_notify_cancel():
        future.set_result(value)


def _loss_text(losses: Losses) -> str:
    tally = losses.tally
    text = f"{losses.facts} facts"
    if tally.requests:
        text += (
            f", among them {tally.requests} requests with {tally.input_tokens} input tokens, "
            f"{tally.output_tokens} output tokens and {tally.cost_nanodollars / 1e9:.6f} dollars"
        )
    return text
