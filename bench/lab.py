"""The set-up of a measurement: the upstream, the load, the folders and the cores; and one measured piece of load.

Owns every process it starts; close it, and all of them end and their folders are removed.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from bench import wrk
from bench.measure import BenchError, Place, Process, cores, loopback
from bench.proxies import KEY, Direct, Nginx, Peer, Pool, Proxy, find_nginx

BOOKS_S = 0.3  # the pool commits what it knows every 200 ms: that belongs to the cost of the requests before
LOAD_TIMEOUT_S = 120.0
RSS_INTERVAL_S = 0.25

AnyProxy = TypeVar("AnyProxy", bound=Proxy)


class Told(msgspec.Struct, frozen=True):
    """What the load saw. `cut` is how many more requests may have been under way when it ended."""

    completed: int
    failed: int
    cut: int = 0
    events: int = 0
    p50_us: float = 0.0
    p99_us: float = 0.0
    first_p50_us: float = 0.0
    first_p99_us: float = 0.0
    first_max_us: float = 0.0
    opened: int = 0


class Sample(msgspec.Struct, frozen=True):
    """One piece of load and what it cost the proxy."""

    told: Told
    cpu_us: float
    seconds: float
    highest_rss_mb: float


class Lab:
    """Everything that is shared by the cases."""

    def __init__(self, *, use_wrk: bool, peer: str | None) -> None:
        self.proxy_core, self.other_core = cores()
        self.nginx = find_nginx()
        self.wrk = shutil.which("wrk") if use_wrk else None
        self.peer = peer
        self._stack = ExitStack()
        self._count = 0

    def __enter__(self) -> Self:
        # The proxy has its core for itself, as far as it is up to us.
        os.sched_setaffinity(0, {self.other_core})
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 16_384)), hard))
        self._root = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="eggpool-bench-")))
        address, name = loopback()
        command = [sys.executable, "-m", "bench.upstream", address]
        upstream = Process(command, self.other_core, output=subprocess.PIPE)
        self._stack.callback(upstream.close)
        line = upstream.output.readline()
        if not line.strip().isdigit():
            self._stack.close()
            raise BenchError("the upstream of the measurement did not start.")
        self.upstream = Place(address, int(line), name)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def folder(self) -> Path:
        """A new empty folder."""
        self._count += 1
        path = self._root / str(self._count)
        path.mkdir()
        return path

    @contextmanager
    def proxies(self, *, direct: bool = False, protocol: str = "openai") -> Iterator[list[Proxy]]:
        """The proxies of a case, all running, the pool last; its provider speaks `protocol`. Ends them."""
        with ExitStack() as stack:
            found: list[Proxy] = []

            def keep(proxy: AnyProxy) -> AnyProxy:
                stack.callback(proxy.close)
                found.append(proxy)
                return proxy

            if direct:
                keep(Direct(self.upstream))
            if self.nginx is not None:
                keep(Nginx(self.nginx, self.upstream, self.folder(), self.proxy_core))
            if self.peer is not None:
                keep(Peer(self.peer, self.upstream, self.folder(), self.proxy_core))
            keep(Pool(self.upstream, self.folder(), self.proxy_core, protocol)).wait()
            yield found

    def closed(self, proxy: Proxy, kind: str, connections: int, seconds: float, *, own: bool = False) -> Sample:
        """Keep connections busy."""
        if self.wrk is None or own:
            return self._measured(proxy, lambda: self._load(proxy, "closed", kind, str(connections), f"{seconds:g}"))
        command = wrk.command(self.wrk, self._root, proxy.place.port, kind, connections, seconds)
        return self._measured(proxy, lambda: msgspec.structs.replace(self._run(proxy, command), cut=connections))

    def streams(self, proxy: Proxy, mode: str, count: int) -> Sample:
        """A load of so many streams: `paced`, `long`, or `first` for one after the other."""
        return self._measured(proxy, lambda: self._load(proxy, mode, str(count)))

    def held(self, proxy: Proxy, count: int, while_open: Callable[[], None]) -> Told:
        """Open so many streams at once; `while_open` is called when each has had its first byte."""
        command = [sys.executable, "-m", "bench.load", "hold", str(proxy.place.port), str(count)]
        process = self._client(proxy, command)
        try:
            guard = threading.Timer(LOAD_TIMEOUT_S, process.close)
            guard.start()
            line = process.output.readline()
            if line.strip() == b"open":
                while_open()
                line = process.output.readline()
            guard.cancel()
            return _told(line)
        finally:
            process.close()

    def _load(self, proxy: Proxy, mode: str, *arguments: str) -> Told:
        return self._run(proxy, [sys.executable, "-m", "bench.load", mode, str(proxy.place.port), *arguments])

    def _run(self, proxy: Proxy, command: list[str]) -> Told:
        process = self._client(proxy, command)
        try:
            guard = threading.Timer(LOAD_TIMEOUT_S, process.close)
            guard.start()
            lines = process.output.read().strip().splitlines()
            guard.cancel()
            return _told(lines[-1] if lines else b"")
        finally:
            process.close()

    def _client(self, proxy: Proxy, command: list[str]) -> Process:
        environ = {"BENCH_KEY": KEY, "BENCH_ADDRESS": proxy.place.address}
        return Process(command, self.other_core, environ=environ, output=subprocess.PIPE)

    def _measured(self, proxy: Proxy, load: Callable[[], Told]) -> Sample:
        process = proxy.process
        if process is None:
            return Sample(load(), 0.0, 0.0, 0.0)
        watch = _Watch(process)
        cpu_s, began = process.cpu_s(), time.monotonic()
        with watch:
            told = load()
            seconds = time.monotonic() - began
            time.sleep(BOOKS_S)
        return Sample(told, (process.cpu_s() - cpu_s) * 1e6, seconds, watch.highest_mb)


class _Watch:
    """Looks at a process's memory now and then."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.highest_mb = 0.0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._stop.wait(RSS_INTERVAL_S):
            self.highest_mb = max(self.highest_mb, self._process.rss_mb())


def _told(line: bytes) -> Told:
    try:
        return msgspec.convert(json.loads(line), Told)
    except (ValueError, msgspec.ValidationError):
        raise BenchError("the load ended without a result.") from None
