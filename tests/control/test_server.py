"""What clients of the control socket can do to the server: ask, and nothing else."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from tests.helpers.pool import RunningPool, pool_of, run

from eggpool.control import client, place
from eggpool.control.protocol import MAX_REQUEST_BYTES, Rest, Status
from eggpool.control.server import MAX_CLIENTS, Clients, open_control
from eggpool.engine.insight import PoolStatus, Rested
from eggpool.errors import CommandRefused, NotRunning, ServerUnreachable
from eggpool.scripted import good

STATUS = b'{"command":"status"}\n'
NOBODY = 65534
QUESTIONS = 3000
FAR_TOO_MUCH = 64 * 1024 * 1024


@asynccontextmanager
async def listening(folder: Path) -> AsyncIterator[tuple[RunningPool, Path]]:
    """A pool with a control socket, and the path of its database."""
    async with pool_of(folder, {"a": good}) as (pool, _), open_control(pool.runtime):
        yield pool, pool.runtime.database.path


async def still_answers(database: Path) -> None:
    """The server is as well as before."""
    told = await asyncio.to_thread(client.ask, database, Status(), PoolStatus)
    assert [account.account for account in told.accounts] == ["alpha/a"]


async def said_to(database: Path, sent: bytes) -> bytes:
    """All that the server says to these bytes until it closes the connection."""
    reader, writer = await asyncio.open_unix_connection(place.address_of(place.socket_path(database)))
    try:
        writer.write(sent)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


@pytest.mark.parametrize("debug", [True, False])
def test_answers_and_goes(tmp_path: Path, *, debug: bool) -> None:
    """It answers while the pool runs, on either event loop, and afterwards nothing is left of the socket."""

    async def scenario() -> None:
        async with listening(tmp_path) as (pool, database):
            told = await asyncio.to_thread(client.ask, database, Status(), PoolStatus)
            assert (told.url, told.pid, told.ready) == (pool.runtime.url, os.getpid(), True)
        assert not place.socket_path(database).exists()
        with pytest.raises(NotRunning, match="`eggpool serve` starts one"):
            await asyncio.to_thread(client.ask, database, Status(), PoolStatus)

    run(scenario, debug=debug)


def test_several_questions_on_one_connection(tmp_path: Path) -> None:
    """A client may ask again on its connection, and gets its answers in order."""

    async def scenario() -> None:
        async with listening(tmp_path) as (_, database):
            lines = (await said_to(database, STATUS + b'{"command":"wake","name":"zz"}\n' + STATUS)).splitlines()
            assert [next(iter(json.loads(line))) for line in lines] == ["result", "error", "result"]

    run(scenario)


def test_every_answer_arrives(tmp_path: Path) -> None:
    """A client that asks more than fits between the two, and only then reads, gets each of its answers."""

    async def scenario() -> None:
        async with listening(tmp_path) as (_, database):
            said = await said_to(database, STATUS * QUESTIONS)
            assert (said.count(b"\n"), said.count(b'{"result":')) == (QUESTIONS, QUESTIONS)

    run(scenario)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\n", "not_understood"),
        (b"GET / HTTP/1.1\r\n\r\n", "not_understood"),
        (b"\x00\xff\xfe\n", "not_understood"),
        (b"[" * 60_000 + b"\n", "not_understood"),
        (b'{"command":"status","x":' + b"[" * 60_000 + b"\n", "not_understood"),
        (b"{}\n", "not_understood"),
        (b'{"command":"format-the-disk"}\n', "not_understood"),
        (b'{"command":"rest"}\n', "not_understood"),
        (b'{"command":"rest","name":7}\n', "not_understood"),
        (b'{"command":"rest","name":"a","for_s":-1}\n', "not_understood"),
        (b'{"command":"rest","name":"a","for_s":1e999}\n', "not_understood"),
        (b'{"command":"rest","name":"%b"}\n' % (b"a" * 300), "not_understood"),
        (b'{"command":"explain","model":""}\n', "not_understood"),
        (b"x" * (MAX_REQUEST_BYTES + 2) + b"\n", "too_long"),
        (b"x" * FAR_TOO_MUCH, "too_long"),
        (STATUS[:-1], None),
        (b"", None),
    ],
)
def test_rubbish(tmp_path: Path, sent: bytes, code: str | None) -> None:
    """What is no request gets a sentence or nothing, ends its own connection, and changes nothing."""

    async def scenario() -> None:
        async with listening(tmp_path) as (pool, database):
            try:
                said = await said_to(database, sent)
            except ConnectionError:
                said = b""  # it did not listen to the end
                assert len(sent) > MAX_REQUEST_BYTES
            if said or code is None:
                assert [json.loads(line)["error"]["code"] for line in said.splitlines()] == [code] * (code is not None)
            await still_answers(database)
            assert pool.runtime.pool.rests == {}

    run(scenario)


def test_who_does_nothing_is_parted_from(tmp_path: Path) -> None:
    """A client that asks nothing, or does not read its answers, is let go after a while."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            clients = Clients(pool.runtime, silence_s=0.05)
            listener = await asyncio.start_unix_server(clients.attend, tmp_path / "s", limit=MAX_REQUEST_BYTES)
            try:
                reader, writer = await asyncio.open_unix_connection(tmp_path / "s")
                assert await reader.read() == b""
                writer.close()
                deaf = socket.socket(socket.AF_UNIX)
                with deaf:
                    deaf.setblocking(False)
                    loop = asyncio.get_running_loop()
                    await loop.sock_connect(deaf, str(tmp_path / "s"))
                    with pytest.raises(ConnectionError):
                        while True:  # until it is let go, however many answers fit between the two
                            await loop.sock_sendall(deaf, STATUS * 1000)
            finally:
                listener.close()
                await clients.aclose()

    run(scenario)


def test_a_flood_of_clients(tmp_path: Path) -> None:
    """So many clients are attended to, further ones are told to come again, and all are parted from at the end."""

    async def scenario() -> None:
        async with pool_of(tmp_path, {"a": good}) as (pool, _):
            database = pool.runtime.database.path
            async with open_control(pool.runtime):
                address = place.address_of(place.socket_path(database))
                crowd = [await asyncio.open_unix_connection(address) for _ in range(MAX_CLIENTS)]
                for reader, writer in crowd:
                    writer.write(STATUS)
                    assert b'"result"' in await reader.readline()
                with pytest.raises(ServerUnreachable, match="too many commands already"):
                    await asyncio.to_thread(client.ask, database, Status(), PoolStatus)
                crowd[0][1].write_eof()
                assert await crowd[0][0].read() == b""
                await still_answers(database)
            for reader, writer in crowd:
                assert await reader.read() == b""
                writer.close()

    run(scenario)


def test_who_leaves_in_between(tmp_path: Path) -> None:
    """A client that is gone before its answer disturbs nobody."""

    async def scenario() -> None:
        async with listening(tmp_path) as (_, database):
            for _ in range(MAX_CLIENTS // 2):
                with socket.socket(socket.AF_UNIX) as gone:
                    gone.connect(place.address_of(place.socket_path(database)))
                    gone.sendall(STATUS * 3)
            await still_answers(database)

    run(scenario)


def test_another_user_is_refused(tmp_path: Path) -> None:
    """Even where the file would let it through, a process of another user is told to go, and can do nothing."""

    async def scenario(folder: Path) -> None:
        async with listening(folder) as (pool, database):
            path = place.socket_path(database)
            path.chmod(0o666)
            foreign = socket.socket(socket.AF_UNIX)
            os.seteuid(NOBODY)  # the system notes who somebody is when it connects
            try:
                foreign.connect(str(path))
            finally:
                os.seteuid(0)
            foreign.setblocking(False)
            loop = asyncio.get_running_loop()
            with foreign:
                await loop.sock_sendall(foreign, b'{"command":"rest","name":"a"}\n')
                said = msgspec.json.decode(await loop.sock_recv(foreign, 4096))
            assert said["error"]["code"] == "not_allowed"
            assert pool.runtime.pool.rests == {}
            await still_answers(database)

    if os.geteuid() == 0:
        with tempfile.TemporaryDirectory(dir="/tmp") as name:
            Path(name).chmod(0o755)
            run(lambda: scenario(Path(name)))
    else:  # nobody can be another user then: the same question is put for a server of somebody else
        ours, theirs = socket.socketpair()
        with ours, theirs:
            assert not place.may_speak(place.user_of(ours), os.geteuid() + 1)


def test_where_there_can_be_no_socket(tmp_path: Path) -> None:
    """A pool serves without its socket, and commands say that nobody listens there."""

    async def scenario() -> None:
        (tmp_path / "usage.sqlite3.sock").mkdir()
        async with listening(tmp_path) as (pool, database):
            async with pool.get("/v1/healthz") as reply:
                assert reply.status == 200
            with pytest.raises(ServerUnreachable):
                await asyncio.to_thread(client.ask, database, Status(), PoolStatus)

    run(scenario)


@pytest.mark.parametrize(
    ("says", "told"),
    [
        (b"", "ended the connection before its answer was whole"),
        (b'{"result":', "ended the connection before its answer was whole"),
        (b"SSH-2.0-x\n", "is not an eggpool server"),
        (b'{"result":{"pid":"x"}}\n', "is it of the same version"),
        (b"{}\n", "is it of the same version"),
        (b'{"error":{"code":"not_understood","message":"Who?"}}\n', "Who?"),
    ],
)
def test_a_strange_server(tmp_path: Path, says: bytes, told: str) -> None:
    """Whatever answers, a command ends with one sentence."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(says)
        writer.close()

    async def scenario() -> None:
        server = await asyncio.start_unix_server(answer, tmp_path / "usage.sqlite3.sock")
        async with server:
            with pytest.raises(ServerUnreachable, match=told):
                await asyncio.to_thread(client.ask, tmp_path / "usage.sqlite3", Status(), PoolStatus)

    run(scenario)


def test_a_server_that_hangs(tmp_path: Path) -> None:
    """A command does not wait for ever."""
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(tmp_path / "usage.sqlite3.sock"))
        silent.listen()
        with pytest.raises(ServerUnreachable, match=r"does not answer at .* within 0.05 seconds"):
            client.ask(tmp_path / "usage.sqlite3", Status(), PoolStatus, limit_s=0.05)


def test_a_refusal_keeps_its_reason(tmp_path: Path) -> None:
    """What the server will not do is told with a code and a sentence."""

    async def scenario() -> None:
        async with listening(tmp_path) as (_, database):
            with pytest.raises(CommandRefused, match="No account or provider is called 'zz'") as refused:
                await asyncio.to_thread(client.ask, database, Rest("zz"), Rested)
            assert refused.value.reason == "unknown_name"

    run(scenario)
