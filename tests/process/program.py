"""The installed command as a real process: started, listened to, signalled, ended; nothing outlives a test."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from eggpool.scripted import ScriptedProvider
from eggpool.store import file
from eggpool.store.stats import RequestRow, recent_requests

LIMIT_S = 30.0
CLIENT_KEY = "ep_test-client-key-0000"
ACCOUNT_KEY = "test-first-key-0000"
NOWHERE = "http://127.0.0.1:9/v1"
SECRETS = (CLIENT_KEY, ACCOUNT_KEY)
BEARER = {"authorization": f"Bearer {CLIENT_KEY}"}
CHAT = {"model": "scripted-large", "messages": [{"role": "user", "content": "one two three"}]}


def run(scenario: Callable[[], Coroutine[Any, Any, None]], limit_s: float = LIMIT_S) -> None:
    """Run one scenario to its end, bounded in time."""

    async def bounded() -> None:
        async with asyncio.timeout(limit_s):
            await scenario()

    asyncio.run(bounded())


class Program:
    """One `eggpool` process and what it has said so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.stdout = ""
        self.stderr = ""
        self._said = asyncio.Condition()
        self._readers = [
            asyncio.ensure_future(self._read("stdout", process.stdout)),
            asyncio.ensure_future(self._read("stderr", process.stderr)),
        ]

    async def _read(self, name: str, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while line := await stream.readline():
            async with self._said:
                setattr(self, name, getattr(self, name) + line.decode())
                self._said.notify_all()
        async with self._said:
            self._said.notify_all()

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until a pattern is on standard error or standard output; an early end is an error."""
        async with self._said:
            while True:
                found = re.search(pattern, self.stderr) or re.search(pattern, self.stdout)
                if found:
                    return found
                assert not all(reader.done() for reader in self._readers), self.stdout + self.stderr
                await self._said.wait()

    async def url(self) -> str:
        """Where the pool listens, once it does."""
        return (await self.says(r"listens on (http://\S+)"))[1]

    def signal(self, number: int) -> None:
        """Send a signal to this process."""
        self.process.send_signal(number)

    async def ended(self, loud: str | None = None) -> int:
        """Its exit code; it must have kept the secrets and shown no traceback and no defect.

        With `loud`, errors with these words are in its log, and no others.
        """
        code = await self.process.wait()
        await asyncio.gather(*self._readers)
        said = self.stdout + self.stderr
        assert "Traceback" not in said, said
        assert "Warning" not in said, said
        errors = [line for line in said.splitlines() if " ERROR " in line]
        assert errors == [line for line in errors if loud is not None and loud in line], said
        assert errors or loud is None, said
        for secret in SECRETS:
            assert secret not in said
        return code

    async def aclose(self) -> None:
        """End it, however it stands."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()
        await asyncio.gather(*self._readers)


@asynccontextmanager
async def program(folder: Path, *words: str, before: Sequence[str] = (), **environ: str) -> AsyncIterator[Program]:
    """`eggpool` with these arguments, in a home of its own; `before` are the words of a command that starts it."""
    clean = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "PYTHONPATH")}
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *before,
        sys.executable,
        "-W",
        "default::ResourceWarning",
        "-m",
        "eggpool",
        *words,
        cwd=folder,
        env=clean | {"HOME": str(folder), "TMPDIR": str(scratch)} | environ,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    running = Program(process)
    try:
        yield running
    finally:
        await running.aclose()


async def ends(folder: Path, *words: str, before: Sequence[str] = (), **environ: str) -> tuple[int, str, str]:
    """A command that ends by itself: its exit code, standard output and standard error."""
    async with program(folder, *words, before=before, **environ) as running:
        return await running.ended(), running.stdout, running.stderr


def one_sentence(stderr: str) -> str:
    """The one line of an error."""
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert lines[0].startswith("Error: ")
    return lines[0]


def configure(
    folder: Path,
    at: ScriptedProvider | None = None,
    *,
    key: str | None = CLIENT_KEY,
    commit_interval_ms: int = 20,
    **server: Any,
) -> Path:
    """Write a configuration with one account at the provider; `server` are further keys of that section."""
    settings = {"port": 0, "shutdown_grace_s": 20, "log_level": "DEBUG", **server}
    if key is not None:
        settings["api_key"] = key
    lines = ["[server]", *(f"{name} = {json.dumps(value)}" for name, value in settings.items())]
    lines += ["[database]", 'path = "usage.sqlite3"', f"commit_interval_ms = {commit_interval_ms}"]
    base_url = NOWHERE if at is None else at.base_url
    lines += ["[providers.scripted]", 'id = "scripted"', f'base_url = "{base_url}"']
    lines += ['protocols = ["openai", "anthropic"]']
    lines += ["[[providers.scripted.accounts]]", 'name = "first"', f'api_key = "{ACCOUNT_KEY}"']
    path = folder / "config.toml"
    path.write_text("\n".join(lines) + "\n")
    return path


def books(folder: Path) -> tuple[RequestRow, ...]:
    """The requests in the books of a process that has ended; nothing may be left begun."""
    conn = file.open_reader(folder / "usage.sqlite3", busy_timeout_ms=1000)
    try:
        assert conn.execute("SELECT COUNT(*) FROM begun").fetchone()[0] == 0
        return recent_requests(conn, 1000)
    finally:
        conn.close()


async def exists(path: Path) -> None:
    """Wait until there is a file."""
    while not await asyncio.to_thread(path.exists):
        pass


async def begun(folder: Path, count: int) -> None:
    """Wait until the books hold so many requests as begun."""
    conn = file.open_reader(folder / "usage.sqlite3", busy_timeout_ms=1000)
    try:
        while True:
            if conn.execute("SELECT COUNT(*) FROM begun").fetchone()[0] == count:
                return
            await asyncio.sleep(0)
    finally:
        conn.close()


async def ready(http: aiohttp.ClientSession, url: str) -> None:
    """Wait until the pool says that it is ready and has the provider's list."""
    while True:
        async with http.get(f"{url}/v1/readyz") as reply:
            if reply.status == 200:
                break
    while not await models(http, url):
        pass


async def models(http: aiohttp.ClientSession, url: str) -> list[str]:
    """The ids that the pool lists."""
    async with http.get(f"{url}/v1/models") as reply:
        assert reply.status == 200
        return [model["id"] for model in (await reply.json())["data"]]


async def no_longer_listens(url: str) -> None:
    """Wait until a new connection is refused."""
    host, _, port = url.removeprefix("http://").rpartition(":")
    while True:
        try:
            _, writer = await asyncio.open_connection(host, int(port))
        except ConnectionRefusedError:
            return
        except ConnectionResetError:
            continue  # it closed with this connection not yet taken
        writer.close()


@asynccontextmanager
async def serving(folder: Path, **environ: str) -> AsyncIterator[tuple[Program, str, aiohttp.ClientSession]]:
    """A pool that is ready, where it listens, and a client for it."""
    async with (
        program(folder, "serve", before=(), **environ) as running,
        aiohttp.ClientSession(headers=BEARER) as http,
    ):
        url = await running.url()
        await ready(http, url)
        yield running, url, http


def taken_port() -> socket.socket:
    """A socket that listens on a free port of loopback."""
    taken = socket.socket()
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    return taken


SIGNALS = (signal.SIGTERM, signal.SIGINT)
