"""Providers behind TLS: a certificate that is trusted, one that is not, and the way through a proxy."""

from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.helpers.pool import run
from tests.upstream.calling import LOOPS, call, calling, fetched
from tests.upstream.test_outbound import CREDENTIALS, SCHEMES, proxy

from eggpool.errors import ConnectFailed, UpstreamBroken
from eggpool.upstream import outbound

LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
NOTHING = hashlib.sha256(b"").hexdigest().encode()

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl, which makes certificates, is missing")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate for localhost and its key."""
    folder = tmp_path_factory.mktemp("tls")
    names = "subjectAltName=DNS:localhost"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", names, "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *files], check=True, capture_output=True, timeout=30)
    return folder


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system trusts that certificate."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate / "cert.pem"))
    outbound.verifying.cache_clear()
    yield
    outbound.verifying.cache_clear()


def showing(certificate: Path) -> ssl.SSLContext:
    """How a provider shows that certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    return context


@asynccontextmanager
async def provider(certificate: Path) -> AsyncIterator[int]:
    """A provider that speaks TLS and answers each request with the digest of its body; gives its port."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = LENGTH.search(head)
                body = await reader.readexactly(int(length[1])) if length else b""
                digest = hashlib.sha256(body).hexdigest().encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(digest), digest))
        except (asyncio.IncompleteReadError, OSError):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=showing(certificate))
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await asyncio.sleep(0)


@pytest.mark.usefixtures("trusted")
@LOOPS
def test_a_trusted_provider(certificate: Path, debug: bool) -> None:
    """A request over TLS is answered, and the next one takes the same connection."""

    async def main() -> None:
        async with provider(certificate) as port, calling() as client:
            request = call(f"https://localhost:{port}", method="GET")
            first = await client.send(request)
            assert await first.read() == NOTHING
            assert await first.read() == b""
            assert first.connect_us is not None
            second = await client.send(request)
            assert second.reused_connection
            second.close()

    run(main, 10, debug=debug)


@pytest.mark.usefixtures("trusted")
@LOOPS
def test_a_long_request(certificate: Path, debug: bool) -> None:
    """A body of many megabytes is written whole through TLS as well."""

    async def main() -> None:
        body = bytes(range(256)) * 40_000
        async with provider(certificate) as port, calling() as client:
            digest = await fetched(client, call(f"https://localhost:{port}", body=body))
            assert digest == hashlib.sha256(body).hexdigest().encode()

    run(main, 10, debug=debug)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("head", [b"", b"content-length: %d\r\n"], ids=["until close", "length"])
@LOOPS
def test_a_long_reply_and_a_bare_end(certificate: Path, head: bytes, debug: bool) -> None:
    """A provider that sends much and closes without a word of TLS: a reader that was held up gets all of it."""

    async def main() -> None:
        body = bytes(range(256)) * 4000
        context = showing(certificate)

        def serve(listener: socket.socket) -> None:
            raw, _ = listener.accept()
            with context.wrap_socket(raw, server_side=True) as there:
                there.recv(65_536)
                length = head % len(body) if head else b""
                there.sendall(b"HTTP/1.1 200 OK\r\n%b\r\n%b" % (length, body))

        listener = socket.create_server(("127.0.0.1", 0))
        serving = asyncio.create_task(asyncio.to_thread(serve, listener))
        async with calling() as client:
            answer = await client.send(call(f"https://localhost:{listener.getsockname()[1]}", method="GET"))
            await serving  # all was sent, and the end too, before the first piece is read
            received = b""
            while piece := await answer.read():
                received += piece
            assert received == body
        listener.close()

    run(main, 10, debug=debug)


@pytest.mark.usefixtures("trusted")
@LOOPS
def test_connections_that_are_given_up(certificate: Path, debug: bool) -> None:
    """Requests that are cancelled while their connection is made leave nothing behind, and disturb no other."""

    async def main() -> None:
        async with provider(certificate) as port, calling() as client:
            request = call(f"https://localhost:{port}", method="GET")
            for turns in range(12):
                given_up = [asyncio.create_task(client.send(request, fresh=True)) for _ in range(3)]
                for _ in range(turns):
                    await asyncio.sleep(0)
                for task in given_up:
                    task.cancel()
                for outcome in await asyncio.gather(*given_up, return_exceptions=True):
                    assert isinstance(outcome, asyncio.CancelledError)
                assert await fetched(client, request) == NOTHING

    run(main, 10, debug=debug)


@LOOPS
def test_a_provider_that_nobody_vouches_for(certificate: Path, debug: bool) -> None:
    """A certificate that the system does not trust gives no connection, and the sentence says so."""
    outbound.verifying.cache_clear()

    async def main() -> None:
        async with provider(certificate) as port, calling() as client:
            with pytest.raises(ConnectFailed, match="its certificate was not accepted"):
                await client.send(call(f"https://localhost:{port}", method="GET"))

    run(main, 10, debug=debug)


@pytest.mark.usefixtures("trusted")
def test_another_name(certificate: Path) -> None:
    """A trusted certificate is good for its own name only."""

    async def main() -> None:
        async with provider(certificate) as port, calling() as client:
            with pytest.raises(ConnectFailed, match="its certificate was not accepted"):
                await client.send(call(f"https://127.0.0.1:{port}", method="GET"))

    run(main, 10)


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("scheme", ["http", "socks5h"])
@LOOPS
def test_through_a_proxy(certificate: Path, scheme: str, debug: bool) -> None:
    """Behind a proxy the same is checked and the same is sent."""

    async def main() -> None:
        async with provider(certificate) as port, proxy(SCHEMES[scheme]) as between, calling() as client:
            url = f"{scheme}://{CREDENTIALS}127.0.0.1:{between.port}"
            assert await fetched(client, call(f"https://localhost:{port}", method="GET"), url) == NOTHING
            with pytest.raises(ConnectFailed):
                await client.send(call(f"https://127.0.0.1:{port}", method="GET"), url)
            await client.aclose()

    run(main, 10, debug=debug)


@pytest.mark.usefixtures("trusted")
def test_no_tls_towards_a_provider_that_wants_it(certificate: Path) -> None:
    """Plain HTTP to a port that speaks TLS is a broken answer."""

    async def main() -> None:
        async with provider(certificate) as port, calling() as client:
            with pytest.raises(UpstreamBroken):
                await client.send(call(f"http://localhost:{port}", method="GET"))

    run(main, 10)
