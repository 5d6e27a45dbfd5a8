"""The commands that ask the running server, as processes of their own beside a real one."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

import aiohttp
from tests.process.program import (
    ACCOUNT_KEY,
    BEARER,
    CHAT,
    Program,
    begun,
    configure,
    ends,
    no_longer_listens,
    program,
    run,
    serving,
)

from eggpool.control.place import address_of
from eggpool.scripted import ReceivedRequest, Reply, ScriptedProvider, Steps, WaitFor, good

SOCKET = "usage.sqlite3.sock"


async def told(folder: Path, *words: str, code: int = 0) -> str:
    """What a command that ends with this code says."""
    ended, stdout, stderr = await ends(folder, *words)
    assert (ended, stderr == "") == (code, code == 0), stderr
    return stdout or stderr


async def asked(http: aiohttp.ClientSession, url: str) -> int:
    """The status of a question."""
    async with http.post(f"{url}/v1/chat/completions", json=CHAT) as reply:
        await reply.read()
        return reply.status


async def stopped(running: Program) -> None:
    """End a server as its user would."""
    running.signal(signal.SIGTERM)
    assert await running.ended() == 0


def test_a_day_with_the_commands(tmp_path: Path) -> None:
    """An account is seen, put to rest, explained, woken; what the commands say is what the server then does."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                status: dict[str, Any] = json.loads(await told(tmp_path, "status", "--json"))
                assert (status["running"], status["url"], status["pid"]) == (True, url, running.process.pid)
                assert f"runs at {url} (process {running.process.pid}, up " in await told(tmp_path, "status")
                assert await asked(http, url) == 200
                (account,) = json.loads(await told(tmp_path, "accounts", "status", "--json"))
                assert (account["account"], account["state"]) == ("scripted/first", "ready")
                assert account["last_used_ms"] is not None

                explained = await told(tmp_path, "explain", "--model", "scripted-large")
                assert explained.startswith("A request for scripted-large (chat) would go to scripted/first now.\n")
                said = await told(tmp_path, "accounts", "rest", "first", "--for", "1h")
                assert said == "scripted/first rests for 1h. `eggpool accounts wake scripted/first` ends that.\n"
                assert await asked(http, url) == 429
                head, line = (await told(tmp_path, "accounts", "status")).splitlines()
                assert head.split()[:6] == ["ACCOUNT", "STATE", "IN", "FLIGHT", "LAST", "USED"]
                assert head.split()[6:] == ["FIVE_HOUR", "WEEKLY", "MONTHLY", "RESTS"]
                assert line.split()[:2] == ["scripted/first", "resting"]
                assert "by hand, " in line
                explained = await told(tmp_path, "explain", "--model", "scripted-large")
                assert explained.startswith("Nobody would take a request for scripted-large (chat) now; the first is")
                assert "scripted/first  resting_by_hand  " in explained
                data = json.loads(await told(tmp_path, "explain", "--model", "scripted-large", "--json"))
                async with http.get(f"{url}/api/explain?model=scripted-large") as reply:
                    over_http = await reply.json()
                assert data.keys() == over_http.keys()
                assert (
                    abs(data["refused"][0]["until_ms"] - over_http["refused"][0]["until_ms"]) <= 2
                )  # rounded each time

                said = await told(tmp_path, "accounts", "wake", "scripted/first")
                assert said == "Woken: scripted/first, which rested by hand.\n"
                assert await told(tmp_path, "accounts", "wake", "first") == "Nothing of scripted/first rested.\n"
                assert await asked(http, url) == 200

                assert "Near it: scripted/first" in await told(tmp_path, "accounts", "rest", "frist", code=1)
                assert "Near it: scripted-large" in await told(tmp_path, "explain", "--model", "scripted-larg", code=1)
                assert "has no window 'x'" in await told(tmp_path, "accounts", "set-used", "first", "x", "43%", code=1)
                await stopped(running)
        assert not (tmp_path / SOCKET).exists()

    run(scenario)


def test_two_servers_with_one_database(tmp_path: Path) -> None:
    """The second one says in a sentence that it may not start, and the first goes on answering."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            async with program(tmp_path, "serve") as first:
                await first.url()
                configure(tmp_path, provider, log_level="WARNING")
                said = await told(tmp_path, "serve", code=1)
                assert said.startswith("Error: Another eggpool process writes to ")
                assert len(said.splitlines()) == 1
                assert json.loads(await told(tmp_path, "status", "--json"))["pid"] == first.process.pid
                await stopped(first)

    run(scenario)


def test_after_a_violent_end(tmp_path: Path) -> None:
    """What a killed server left stops neither the next one nor the commands; what rests by hand still does."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                await told(tmp_path, "accounts", "rest", "first")
                while (await books_lag(tmp_path)) > 0:
                    pass
                running.process.kill()
                await running.process.wait()
            assert (tmp_path / SOCKET).exists()
            assert "No server runs" in await told(tmp_path, "status", code=1)
            async with program(tmp_path, "serve") as second, aiohttp.ClientSession(headers=BEARER) as http:
                url = await second.url()
                (account,) = json.loads(await told(tmp_path, "accounts", "status", "--json"))
                assert (account["state"], account["rests"][0]["kind"]) == ("resting", "by_hand")
                assert await asked(http, url) == 429
                await stopped(second)

    run(scenario)


async def books_lag(folder: Path) -> int:
    """How far the books lag, in milliseconds."""
    lag: int = json.loads(await told(folder, "status", "--json"))["books_lag_ms"]
    return lag


def test_the_socket_outlives_the_last_request(tmp_path: Path) -> None:
    """A server that is stopping still says so to commands; one that hangs on the socket does not hold it up."""

    async def scenario() -> None:
        go = asyncio.Event()

        def waits(_request: ReceivedRequest, good_reply: Reply) -> Steps:
            return (WaitFor(go), *good_reply.steps())

        async with ScriptedProvider({ACCOUNT_KEY: waits}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                asking = asyncio.ensure_future(asked(http, url))
                await begun(tmp_path, 1)
                hanging = await asyncio.open_unix_connection(address_of(tmp_path / SOCKET))
                running.signal(signal.SIGTERM)
                await no_longer_listens(url)
                assert json.loads(await told(tmp_path, "status", "--json"))["in_flight"] == 1
                go.set()
                assert await asking == 200
                assert await running.ended() == 0
                hanging[1].close()

    run(scenario)
