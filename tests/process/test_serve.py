"""`eggpool serve` as a process: it starts, answers, tells clearly why it cannot start, and keeps its secrets."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sqlite3
from pathlib import Path

import aiohttp
import pytest
from tests.process.program import (
    ACCOUNT_KEY,
    BEARER,
    CHAT,
    CLIENT_KEY,
    SECRETS,
    books,
    configure,
    ends,
    one_sentence,
    program,
    run,
    serving,
    taken_port,
)

from eggpool.domain import Outcome
from eggpool.scripted import (
    Behaviour,
    Drop,
    ReceivedRequest,
    Reply,
    ScriptedProvider,
    SendChunk,
    Steps,
    error,
    good,
)


def test_answers_and_books(tmp_path: Path) -> None:
    """It starts, answers a request, ends with 0 on SIGTERM, and the request is in the books."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                async with http.post(f"{url}/v1/chat/completions", json=CHAT) as reply:
                    assert reply.status == 200
                    assert "You said: one two three" in await reply.text()
                running.process.terminate()
                assert await running.ended() == 0
        (row,) = books(tmp_path)
        assert row.record.outcome is Outcome.COMPLETED
        assert row.record.usage.output_tokens == 5

    run(scenario)


def test_secrets_stay_inside(tmp_path: Path) -> None:
    """No key is in what it says, at any level, nor among its arguments, even when a provider's error quotes the key."""

    async def scenario() -> None:
        quoting = error(401, message=f"Incorrect API key provided: {ACCOUNT_KEY}")
        async with ScriptedProvider({ACCOUNT_KEY: Behaviour(then=quoting)}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                async with http.post(f"{url}/v1/chat/completions", json=CHAT) as reply:
                    assert reply.status == 401
                async with http.post(f"{url}/v1/chat/completions?key={CLIENT_KEY}", json=CHAT) as reply:
                    await reply.read()
                ps = await asyncio.create_subprocess_exec(
                    "ps", "-ww", "-o", "args=", "-p", str(running.process.pid), stdout=asyncio.subprocess.PIPE
                )
                listed = (await ps.communicate())[0].decode()
                assert "eggpool" in listed
                assert not [secret for secret in SECRETS if secret in listed]
                running.process.terminate()
                assert await running.ended() == 0  # looks for secrets in what was said
                assert "401" in running.stderr

    run(scenario)


def test_cut_inside_an_event(tmp_path: Path) -> None:
    """A stream that breaks off inside an event of which a part was passed on is closed without an end, quietly."""

    async def scenario() -> None:
        def cut(_request: ReceivedRequest, good_reply: Reply) -> Steps:
            steps = good_reply.steps()
            return (*steps[:3], SendChunk(b'data: {"choices":[{"delta":{"content":"' + b"x" * 8_000_000), Drop())

        async with ScriptedProvider({ACCOUNT_KEY: cut}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                async with http.post(f"{url}/v1/chat/completions", json=CHAT | {"stream": True}) as reply:
                    with pytest.raises(aiohttp.ClientPayloadError):
                        await reply.read()
                running.process.terminate()
                assert await running.ended() == 0  # looks for defects in what was said
        (row,) = books(tmp_path)
        assert row.record.outcome is Outcome.ERROR

    run(scenario)


def test_makes_a_key_once(tmp_path: Path) -> None:
    """Without a key it makes one, prints it once and keeps it in the configuration; the key opens the pool."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            path = configure(tmp_path, provider, key=None)
            async with program(tmp_path, "serve") as first, aiohttp.ClientSession() as http:
                url = await first.url()
                await first.says(r"\bep_[0-9a-f]{64}\n")
                (key,) = re.findall(r"\bep_[0-9a-f]{64}\b", first.stdout)
                assert key not in first.stderr
                assert key in path.read_text()
                async with http.get(f"{url}/v1/models", headers={"authorization": f"Bearer {key}"}) as reply:
                    assert reply.status == 200
                async with http.get(f"{url}/v1/models", headers=BEARER) as reply:
                    assert reply.status == 401
                first.process.terminate()
                assert await first.ended() == 0
            async with program(tmp_path, "serve") as second:
                await second.url()
                second.process.terminate()
                assert await second.ended() == 0
                assert "ep_" not in second.stdout + second.stderr

    run(scenario)


def test_port_in_use(tmp_path: Path) -> None:
    """A port in use is told in one sentence, with exit code 1."""

    async def scenario() -> None:
        with taken_port() as taken:
            port = taken.getsockname()[1]
            configure(tmp_path, port=port, log_level="WARNING")
            code, _, stderr = await ends(tmp_path, "serve")
        assert code == 1
        assert f"127.0.0.1:{port} is in use" in one_sentence(stderr)

    run(scenario)


def test_a_start_that_fails_makes_no_key(tmp_path: Path) -> None:
    """A key is stored and shown once the pool listens; before that there is nothing to note."""

    async def scenario() -> None:
        with taken_port() as taken:
            path = configure(tmp_path, key=None, port=taken.getsockname()[1], log_level="WARNING")
            before = path.read_text()
            code, stdout, stderr = await ends(tmp_path, "serve")
        assert (code, stdout, path.read_text()) == (1, "", before)
        assert "is in use" in one_sentence(stderr)

    run(scenario)


def test_certificate_files(tmp_path: Path) -> None:
    """Files that are no certificate and key are named by key and path, with exit code 2."""

    async def scenario() -> None:
        (tmp_path / "key.pem").write_text("no key")
        configure(tmp_path, tls_cert="missing.pem", tls_key="key.pem")
        for command in ("serve", "check-config"):
            code, stdout, stderr = await ends(tmp_path, command)
            assert (code, stdout) == (2, "")
            assert stderr.splitlines()[1:] == [
                f"  server.tls_cert: cannot read {tmp_path}/missing.pem: No such file or directory",
                f"  server.tls_key: {tmp_path}/key.pem is not a PEM file of that kind",
            ]

    run(scenario)


def until_it_waits(pid: int) -> None:
    """Come back when a process waits for something, at once where the system does not tell."""
    told = Path(f"/proc/{pid}/stat")
    while told.exists() and told.read_text().rpartition(")")[2].split()[0] != "S":
        pass


def test_interrupted_before_it_listens(tmp_path: Path) -> None:
    """Ctrl-C while it still reads its configuration ends it with 130 and a word."""

    async def scenario() -> None:
        os.mkfifo(tmp_path / "pipe.toml")
        async with program(tmp_path, "--config", "pipe.toml", "serve") as running:
            writer = await asyncio.to_thread(os.open, tmp_path / "pipe.toml", os.O_WRONLY)  # until it is opened there
            # An interrupt just before a read that blocks would be noticed only after it, in any Python program.
            await asyncio.to_thread(until_it_waits, running.process.pid)
            running.signal(signal.SIGINT)
            assert (await running.says("Interrupted."))[0]
            assert await running.process.wait() == 130
            os.close(writer)
            # Python itself may tell of the file that was being opened when the signal came.
            assert "Traceback" not in running.stderr

    run(scenario)


def test_address_of_another_machine(tmp_path: Path) -> None:
    """An address that is not this machine's is told in one sentence, with exit code 1."""

    async def scenario() -> None:
        configure(tmp_path, host="192.0.2.1", log_level="WARNING")
        code, _, stderr = await ends(tmp_path, "serve")
        assert code == 1
        assert "192.0.2.1" in one_sentence(stderr)

    run(scenario)


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A database folder that cannot be made is told in one sentence, with exit code 1."""

    async def scenario() -> None:
        path = configure(tmp_path)
        (tmp_path / "occupied").write_text("a file, not a folder")
        path.write_text(path.read_text().replace('path = "usage', 'path = "occupied/usage'))
        code, _, stderr = await ends(tmp_path, "serve")
        assert code == 1
        assert str(tmp_path / "occupied") in one_sentence(stderr)

    run(scenario)


@pytest.mark.parametrize("content", [b"SQLite format 3\x00" + b"\xff" * 5000, b"my diary\n", b"half"])
def test_corrupt_database(tmp_path: Path, content: bytes) -> None:
    """A file that is no database, or a damaged one, is told in one sentence and left as it is."""

    async def scenario() -> None:
        configure(tmp_path)
        (tmp_path / "usage.sqlite3").write_bytes(content)
        code, _, stderr = await ends(tmp_path, "serve")
        assert code == 1
        assert str(tmp_path / "usage.sqlite3") in one_sentence(stderr)
        assert (tmp_path / "usage.sqlite3").read_bytes() == content

    run(scenario)


def test_database_of_another_program(tmp_path: Path) -> None:
    """Another program's database is told in one sentence and left as it is."""

    async def scenario() -> None:
        configure(tmp_path)
        conn = sqlite3.connect(tmp_path / "usage.sqlite3")
        conn.execute("CREATE TABLE diary (entry TEXT)")
        conn.close()
        before = (tmp_path / "usage.sqlite3").read_bytes()
        code, _, stderr = await ends(tmp_path, "serve")
        assert code == 1
        assert "another program's database" in one_sentence(stderr)
        assert (tmp_path / "usage.sqlite3").read_bytes() == before

    run(scenario)


def test_second_server_on_one_database(tmp_path: Path) -> None:
    """A second server on the same database is refused in one sentence; the first one goes on."""

    async def scenario() -> None:
        async with ScriptedProvider({ACCOUNT_KEY: good}) as provider:
            configure(tmp_path, provider)
            async with serving(tmp_path) as (running, url, http):
                code, _, stderr = await ends(tmp_path, "serve")
                assert code == 1
                assert "Another eggpool process" in one_sentence(stderr)
                async with http.get(f"{url}/v1/healthz") as reply:
                    assert reply.status == 200
                running.process.terminate()
                assert await running.ended() == 0

    run(scenario)


def test_wrong_configuration(tmp_path: Path) -> None:
    """A configuration that is missing or wrong ends with exit code 2; each problem is told, with its place."""

    async def scenario() -> None:
        code, _, stderr = await ends(tmp_path, "--config", str(tmp_path / "none.toml"), "serve")
        assert (code, len(stderr.splitlines())) == (2, 1)
        assert "none.toml" in stderr
        configure(tmp_path, prot=1, shutdown_grace_s=-1)
        code, _, stderr = await ends(tmp_path, "serve")
        assert code == 2
        assert "server.prot" in stderr
        assert "server.shutdown_grace_s" in stderr

    run(scenario)


def test_migrate(tmp_path: Path) -> None:
    """`migrate --dry-run` names what is pending and makes no file; `migrate` applies it; then nothing is pending."""

    async def scenario() -> None:
        configure(tmp_path)
        code, planned, _ = await ends(tmp_path, "migrate", "--dry-run")
        assert code == 0
        names = re.findall(r"^Would apply (\S+)", planned, re.M)
        assert names
        assert not (tmp_path / "usage.sqlite3").exists()
        code, applied, _ = await ends(tmp_path, "migrate")
        assert code == 0
        assert re.findall(r"^Applied (\S+)", applied, re.M) == names
        code, planned, _ = await ends(tmp_path, "migrate", "--dry-run")
        assert (code, planned) == (0, "0 migrations are pending\n")
        (tmp_path / "usage.sqlite3").write_bytes(b"my diary\n")
        for words in (("migrate",), ("migrate", "--dry-run")):
            code, _, stderr = await ends(tmp_path, *words)
            assert code == 1
            assert "usage.sqlite3" in one_sentence(stderr)

    run(scenario)
