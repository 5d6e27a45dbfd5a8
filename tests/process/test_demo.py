"""`eggpool demo` as a process: what it prints works, and it checks itself."""

from __future__ import annotations

import asyncio
import re
import shutil
import signal
from pathlib import Path

import pytest
from tests.process.program import SIGNALS, ends, program, run, taken_port


def test_once(tmp_path: Path) -> None:
    """`demo --once` asks a dozen requests of each of four kinds, shows each, and ends with 0; no file remains."""

    async def scenario() -> None:
        code, stdout, stderr = await ends(tmp_path, "demo", "--once")
        assert (code, stderr) == (0, "")
        for kind in ("chat", "chat stream", "messages", "messages stream"):
            assert len(re.findall(rf"^ ?\d+ {kind} +completed ", stdout, re.M)) == 12
        assert "limited: rate" in stdout
        assert "All 48 requests were answered rightly" in stdout
        assert max(map(len, stdout.splitlines())) <= 80

    run(scenario)
    assert [path for path in tmp_path.rglob("*") if path.name != "tmp"] == []


@pytest.mark.parametrize("number", SIGNALS)
def test_goes_on_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """It prints endpoint, key and what each account did; the curl lines work when pasted; a signal ends it with 0."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("there is no curl here, so its command lines cannot be tried")

    async def scenario() -> None:
        async with program(tmp_path, "demo") as running:
            await running.says("Ctrl-C ends")
            endpoint = re.search(r"Endpoint +(http://127\.0\.0\.1:\d+/v1)$", running.stdout, re.M)
            key = re.search(r"Key +(ep_\w+)$", running.stdout, re.M)
            assert endpoint
            assert key
            assert re.search(r"^limited +3 +[12] ", running.stdout, re.M)
            lines = re.findall(r"^curl .*?\n\n", running.stdout, re.M | re.S)
            answers = [await pasted(line) for line in lines]
            assert len(answers) == 2
            assert '"content":"You said: Hello"' in answers[0]
            assert '"text":" Hello"' in answers[1]
            assert answers[1].rstrip().endswith('data: {"type":"message_stop"}')
            running.signal(number)
            assert await running.ended() == 0
            assert running.stderr == ""
            assert list((tmp_path / "tmp").iterdir()) == []

    async def pasted(line: str) -> str:
        shell = await asyncio.create_subprocess_exec(
            "bash", "-c", line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        stdout, stderr = await shell.communicate()
        assert (shell.returncode, stderr) == (0, b"")
        return stdout.decode()

    run(scenario)


def test_stopped_before_the_end(tmp_path: Path) -> None:
    """`demo --once` that is stopped before its end does not say that all was right."""

    async def scenario() -> None:
        async with program(tmp_path, "demo", "--once") as running:
            await running.says("Endpoint")
            running.signal(signal.SIGINT)
            assert await running.ended() == 1
            assert "Stopped before the end" in running.stdout
            assert list((tmp_path / "tmp").iterdir()) == []

    run(scenario)


def test_port(tmp_path: Path) -> None:
    """`--port` that is in use is told in one sentence, with exit code 1."""

    async def scenario() -> None:
        with taken_port() as taken:
            port = taken.getsockname()[1]
            code, stdout, stderr = await ends(tmp_path, "demo", "--port", str(port))
        assert (code, stdout) == (1, "")
        assert f"127.0.0.1:{port} is in use" in stderr
        assert "choose another port with --port" in stderr
        assert len(stderr.splitlines()) == 1

    run(scenario)
