"""What is measured: nginx, the pool, a peer of the user's choice, and no proxy at all.

Each is a process with a port. The pool runs in its default configuration, with two accounts.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Protocol

from bench import nginx
from bench.measure import BenchError, Place, Process, free_port, wait_until
from bench.upstream import MODELS

KEY = "ep_" + "b37c09" * 10 + "b37c"  # guards nothing: the pool that has it listens on loopback for a minute
ACCOUNTS = ("first", "second")
START_TIMEOUT_S = 20.0
PEER_START_TIMEOUT_S = 120.0


class Proxy(Protocol):
    """A way to the upstream."""

    name: str
    place: Place

    @property
    def process(self) -> Process | None:
        """The process that is measured; None for no proxy."""

    def close(self) -> None:
        """End it."""


class Direct:
    """No proxy: what the others are compared with."""

    def __init__(self, upstream: Place) -> None:
        self.name = "direct"
        self.place = upstream
        self.process: Process | None = None

    def close(self) -> None:
        """There is nothing to end."""


class Nginx:
    """nginx as a reverse proxy."""

    def __init__(self, program: str, upstream: Place, folder: Path, core: int) -> None:
        self.name = "nginx"
        self.place = _free_place()
        command = nginx.command(program, folder, self.place.port, upstream)
        with (folder / "nginx.log").open("wb") as log:
            self.process: Process | None = Process(command, core, errors=log)
        _wait_for_answer(self, START_TIMEOUT_S)

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.close()


class Pool:
    """EggPool as a user starts it. `folder` keeps its books from one start to the next."""

    def __init__(self, upstream: Place, folder: Path, core: int, protocol: str = "openai") -> None:
        self.name = "eggpool"
        self.place = _free_place()
        config = folder / "config.toml"
        config.write_text(_configuration(self.place.port, upstream, folder / "usage.sqlite3", protocol))
        with (folder / "eggpool.log").open("ab") as log:
            self.process: Process | None = Process([*eggpool(), "--config", str(config), "serve"], core, errors=log)

    def wait(self) -> None:
        """Until it answers a request."""
        _wait_for_answer(self, START_TIMEOUT_S)

    def summary(self) -> dict[str, object]:
        """What its books say of the last day."""
        status, body = ask(self.place.port, "GET", "/api/stats/summary?period=24h")
        if status != 200:
            raise BenchError(f"the books of the pool could not be read: status {status}.")
        found = json.loads(body)
        if not isinstance(found, dict):
            raise BenchError("the books of the pool could not be read: not an object.")
        return found

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.close()


class Peer:
    """Another proxy, started by the user's command; see `--peer`."""

    def __init__(self, command: str, upstream: Place, folder: Path, core: int) -> None:
        self.name = "peer"
        self.place = _free_place()
        environ = {
            "BENCH_PORT": str(self.place.port),
            "BENCH_UPSTREAM": f"http://{upstream.address}:{upstream.port}/v1",
            "BENCH_KEY": KEY,
            "BENCH_MODELS": ",".join(MODELS),
            "BENCH_DIR": str(folder),
        }
        with (folder / "peer.log").open("wb") as log:
            self.process: Process | None = Process(
                shlex.split(command), core, environ=environ, output=log, errors=subprocess.STDOUT
            )
        _wait_for_answer(self, PEER_START_TIMEOUT_S)

    def close(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.close()


def eggpool() -> list[str]:
    """The command as it is installed beside this interpreter."""
    program = Path(sys.executable).parent / "eggpool"
    return [str(program)] if program.exists() else [sys.executable, "-m", "eggpool"]


def find_nginx() -> str | None:
    """nginx, also where an ordinary user's PATH does not lead."""
    return shutil.which("nginx", path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body; status 0 when there was no answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        connection.request(method, path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


def answers(port: int) -> bool:
    """Whether a plain request is answered."""
    body = b'{"model":"plain","messages":[{"role":"user","content":"Hello"}]}'
    return ask(port, "POST", "/v1/chat/completions", body)[0] == 200


def _free_place() -> Place:
    return Place("127.0.0.1", free_port(), "127.0.0.1")


def _wait_for_answer(proxy: Proxy, timeout_s: float) -> None:
    try:
        wait_until(lambda: answers(proxy.place.port), timeout_s, f"{proxy.name} does not answer", proxy.process)
    except BenchError:
        proxy.close()
        raise


def _configuration(port: int, upstream: Place, database: Path, protocol: str) -> str:
    text = f"""
        [server]
        port = {port}
        api_key = "{KEY}"

        [database]
        path = {json.dumps(str(database))}

        [providers.bench]
        id = "bench"
        base_url = "http://{upstream.name}:{upstream.port}/v1"
        protocols = ["{protocol}"]
    """
    for name in ACCOUNTS:
        text += f"""
        [[providers.bench.accounts]]
        name = "{name}"
        api_key = "{KEY[3:]}{name}"
    """
    return textwrap.dedent(text)
