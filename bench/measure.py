"""Processes of ours and what the operating system says about them: CPU time, resident memory, core.

Reads `/proc`, so it works on Linux only. A proxy may consist of several processes: its figures are those of the
process that was started and of all below it. Nothing is ended that was not started here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

STOP_TIMEOUT_S = 15.0
ROOT = Path(__file__).resolve().parents[1]


class BenchError(Exception):
    """The measurement cannot be made; the message says why."""


def cores() -> tuple[int, int]:
    """The core of the proxy, and the one of everything else; the same one when there is only one."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[min(1, len(allowed) - 1)]


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Place(NamedTuple):
    """Where something listens. The name is the machine's own, where that leads to loopback, else the address."""

    address: str
    port: int
    name: str


def loopback() -> tuple[str, str]:
    """An address of loopback, and a name for it that does not show that it is one, where the machine has that.

    The pool gives providers on this machine more patience, which costs less; most people have providers far away.
    """
    name = socket.gethostname()
    with contextlib.suppress(OSError, UnicodeError):
        address = socket.gethostbyname(name)
        if address.startswith("127."):
            return address, name
    return "127.0.0.1", "127.0.0.1"


class Process:
    """A process on a core of its own choice, with whatever it starts. Close it."""

    def __init__(
        self,
        command: Sequence[str],
        core: int,
        *,
        environ: Mapping[str, str] | None = None,
        output: BinaryIO | int = subprocess.DEVNULL,
        errors: BinaryIO | int | None = None,
    ) -> None:
        everywhere = os.sched_getaffinity(0)
        # A child inherits where its parent may run: set before, so that it never runs anywhere else.
        os.sched_setaffinity(0, {core})
        try:
            self._popen = subprocess.Popen(
                list(command),
                cwd=ROOT,
                env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                start_new_session=True,
            )
        except OSError as error:
            raise BenchError(f"{command[0]} cannot be started: {error.strerror}.") from error
        finally:
            os.sched_setaffinity(0, everywhere)
        self.pid = self._popen.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._popen.poll() is None

    @property
    def output(self) -> BinaryIO:
        """Its standard output, when that is a pipe."""
        pipe = self._popen.stdout
        if pipe is None:
            raise BenchError("this process has no pipe")
        return pipe  # type: ignore[return-value]

    def wait(self, timeout_s: float) -> int:
        """Its exit code. Raises BenchError when it does not end in time."""
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise BenchError(f"a process of the measurement did not end within {timeout_s:g} s.") from None

    def cpu_s(self) -> float:
        """User and system time of the process and those below it so far."""
        return sum(_cpu_s(pid) for pid in self._tree())

    def rss_mb(self) -> float:
        """Resident memory of the process and those below it, in units of 10^6 bytes."""
        return sum(_rss_bytes(pid) for pid in self._tree()) / 1e6

    def close(self) -> None:
        """End it and what it has started."""
        if self.running:
            self._popen.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(STOP_TIMEOUT_S)
        # The group was made for it by start_new_session, so nobody else's process is in it.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)
        self._popen.wait(STOP_TIMEOUT_S)
        if self._popen.stdout is not None:
            self._popen.stdout.close()

    def _tree(self) -> list[int]:
        found = [self.pid]
        parents = _parents()
        for pid in found:
            found.extend(child for child, parent in parents.items() if parent == pid)
        return found


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str, process: Process | None = None) -> None:
    """Ask again and again. Raises BenchError when it takes too long, or when `process` has ended."""
    until = time.monotonic() + timeout_s
    while not condition():
        if process is not None and not process.running:
            raise BenchError(f"{what}: its process has ended.")
        if time.monotonic() > until:
            raise BenchError(f"{what}: not within {timeout_s:g} s.")
        time.sleep(0.002)


def _cpu_s(pid: int) -> float:
    """The CPU-time clock of another process; its number is made as clock_getcpuclockid(3) of Linux does."""
    try:
        return time.clock_gettime(((~pid) << 3) | 2)
    except OSError:
        return 0.0


def _rss_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _parents() -> dict[int, int]:
    return dict(_stat_lines())


def _stat_lines() -> Iterator[tuple[int, int]]:
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name in brackets may hold anything; what follows the last bracket is plain.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                yield int(folder.name), int(fields[1])
