"""Whether the files of [server] tls_cert and tls_key can be used, told by path; their content is never quoted."""

from __future__ import annotations

import ssl
from pathlib import Path

from eggpool.config.schema import Server


def certificate_problems(server: Server) -> list[str]:
    """What is wrong with the certificate and its key; nothing when the server uses none."""
    if server.tls_cert is None or server.tls_key is None:
        return []
    places = (
        ("server.tls_cert", server.tls_cert, b"CERTIFICATE-----"),
        ("server.tls_key", server.tls_key, b"KEY-----"),
    )
    problems = [f"{place}: {fault}" for place, path, mark in places if (fault := _fault(Path(path), mark))]
    if problems:
        return problems
    try:
        # A pass phrase would be asked for at the terminal; an empty one is refused instead.
        ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(
            server.tls_cert, server.tls_key, password=""
        )
    except (OSError, ValueError):  # an SSLError is an OSError
        return [
            f"server.tls_key: {server.tls_key} cannot be used as the key of the certificate {server.tls_cert}; they "
            "must belong together, and the key must not need a pass phrase"
        ]
    return []


def _fault(path: Path, mark: bytes) -> str | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    return None if b"-----BEGIN " in content and mark in content else f"{path} is not a PEM file of that kind"
