"""The books of a real process: what a full disk, a file that cannot be written, and kill -9 do to them."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import signal
import sqlite3
import sys
from pathlib import Path

import aiohttp
import pytest
from tests.process.program import (
    ACCOUNT_KEY,
    CHAT,
    begun,
    books,
    configure,
    ends,
    exists,
    one_sentence,
    program,
    run,
    serving,
)

from eggpool.domain import Outcome
from eggpool.scripted import ReceivedRequest, Reply, ScriptedProvider, Steps, good, slow
from eggpool.scripted.behaviours import play

SMALL_FILES = (
    "import os, resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""A program that starts another one which can make no file larger than 1,000 bytes."""

AT_ONCE = 8
PER_SECOND = 200
ANSWERS = 600  # three seconds of them
COMMIT_INTERVAL_S = 0.1
LATENESS_S = 1.0  # of a thread on a machine that is busy with other tests


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="only Linux can limit the files of a running process")
def test_a_disk_that_fills_up(tmp_path: Path) -> None:
    """When no file can grow any more, answers come as ever and the log is loud; with room again, all is booked."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):

                async def ask(count: int) -> None:
                    for _ in range(count):
                        async with http.post(f"{url}/v1/chat/completions", json=CHAT) as answer:
                            assert answer.status == 200
                            assert "You said: one two three" in await answer.text()

                await ask(3)
                _, hard = resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE)
                resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (4096, hard))
                await ask(20)
                await running.says("the books cannot be written")
                await ask(20)
                resource.prlimit(running.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
                await running.says("the books are written again")
                running.signal(signal.SIGTERM)
                assert await running.ended(loud="the books cannot be written") == 0
        assert [row.record.outcome for row in books(tmp_path)] == [Outcome.COMPLETED] * 43

    run(scenario)


def test_no_room_at_the_start(tmp_path: Path) -> None:
    """A disk without room for the database is told in one sentence, with exit code 1."""

    async def scenario() -> None:
        configure(tmp_path)
        code, _, stderr = await ends(tmp_path, "serve", before=(sys.executable, "-c", SMALL_FILES))
        assert code == 1
        assert str(tmp_path / "usage.sqlite3") in one_sentence(stderr)

    run(scenario)


def as_anybody() -> tuple[str, ...]:
    """The words before a command that take away the administrator's right to write to every file."""
    if os.geteuid() != 0:
        return ()
    found = shutil.which("setpriv")
    if found is None:
        pytest.skip("the administrator may write to every file, and setpriv is not there to change that")
    return (found, "--bounding-set", "-dac_override", "--inh-caps", "-dac_override")


def test_a_file_that_can_only_be_read(tmp_path: Path) -> None:
    """A database that may not be written is told in one sentence and left as it is."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, _, _):
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0
        path = tmp_path / "usage.sqlite3"
        before = path.read_bytes()
        path.chmod(0o400)
        code, _, stderr = await ends(tmp_path, "serve", before=as_anybody())
        assert code == 1
        assert f"The database {path} cannot be opened for writing" in one_sentence(stderr)
        assert path.read_bytes() == before

    run(scenario)


def test_a_file_damaged_in_its_middle(tmp_path: Path) -> None:
    """A database whose first page is whole and whose others are not is told in one sentence, or served; never both."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                for _ in range(20):
                    async with http.post(f"{url}/v1/chat/completions", json=CHAT) as answer:
                        assert answer.status == 200
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0
        path = tmp_path / "usage.sqlite3"
        damaged = path.read_bytes()[:4096] + b"\xff" * (path.stat().st_size - 4096)
        path.write_bytes(damaged)
        code, _, stderr = await ends(tmp_path, "serve")
        assert code == 1
        assert "is damaged" in one_sentence(stderr)
        assert path.read_bytes() == damaged

    run(scenario)


def test_killed_at_two_hundred_a_second(tmp_path: Path) -> None:
    """After kill -9 each reply that the client had for longer than a commit takes is in the file, whole and once."""

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        had: dict[int, float] = {}  # when the last byte of each answer came
        enough = asyncio.Event()

        def at_pace(request: ReceivedRequest, reply: Reply) -> Steps:
            return play(slow(AT_ONCE / PER_SECOND), request, reply)

        async def client(http: aiohttp.ClientSession, url: str, *, stream: bool) -> None:
            while True:
                try:
                    async with http.post(f"{url}/v1/chat/completions", json=CHAT | {"stream": stream}) as answer:
                        assert answer.status == 200
                        text = await answer.text()
                        number = int(answer.headers["x-proxy-request-id"], 16)
                except aiohttp.ClientError:
                    return  # it was killed
                assert "[DONE]" in text or not stream
                had[number] = loop.time()
                if len(had) >= ANSWERS:
                    enough.set()

        async with ScriptedProvider({ACCOUNT_KEY: at_pace}) as provider:
            configure(tmp_path, provider, commit_interval_ms=round(COMMIT_INTERVAL_S * 1000), access_log=False)
            async with serving(tmp_path) as (running, url, http):
                clients = [asyncio.create_task(client(http, url, stream=number % 2 == 0)) for number in range(AT_ONCE)]
                await enough.wait()
                killed = loop.time()
                running.process.kill()
                assert await running.process.wait() == -signal.SIGKILL
                await asyncio.gather(*clients)
            conn = sqlite3.connect(tmp_path / "usage.sqlite3")
            assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            rows = conn.execute("SELECT id, outcome, input_tokens FROM requests").fetchall()
            under_way = {number for (number,) in conn.execute("SELECT id FROM begun")}
            conn.close()
            booked = {number for number, _, _ in rows}
            owed = {number for number, at in had.items() if at < killed - COMMIT_INTERVAL_S - LATENESS_S}
            assert len(owed) > ANSWERS / 4
            assert owed <= booked
            assert not owed & under_way
            assert {(outcome, tokens) for _, outcome, tokens in rows} == {("completed", 3)}

            provider.behave(ACCOUNT_KEY, good)
            async with serving(tmp_path) as (running, url, http):
                await begun(tmp_path, 0)
                async with http.post(f"{url}/v1/chat/completions", json=CHAT) as answer:
                    assert answer.status == 200
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0
        after = books(tmp_path)
        assert len(after) == len(rows) + len(under_way) + 1
        interrupted = {row.record.id for row in after if row.record.outcome is Outcome.INTERRUPTED}
        assert interrupted == under_way

    run(scenario)


def test_started_and_killed_at_once(tmp_path: Path) -> None:
    """kill -9 while the file is being made leaves one that the next start takes."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            for _ in range(3):
                async with program(tmp_path, "serve") as running:
                    await exists(tmp_path / "usage.sqlite3")
                    running.process.kill()
                    await running.process.wait()
            async with serving(tmp_path) as (running, _, _):
                running.signal(signal.SIGTERM)
                assert await running.ended() == 0

    run(scenario)


def test_a_file_that_is_locked_at_the_start(tmp_path: Path) -> None:
    """A database that another program holds is told in one sentence, with exit code 1."""

    async def scenario() -> None:
        path = configure(tmp_path)
        path.write_text(path.read_text().replace("commit_interval_ms", "busy_timeout_ms = 50\ncommit_interval_ms"))
        assert (await ends(tmp_path, "migrate"))[0] == 0
        holder = sqlite3.connect(tmp_path / "usage.sqlite3", isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        code, _, stderr = await ends(tmp_path, "serve")
        holder.close()
        assert code == 1
        assert "is locked by another program" in one_sentence(stderr)

    run(scenario)
