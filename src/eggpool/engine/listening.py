"""Sockets to listen on and the certificate that is shown there; each failure is a sentence that says what to do."""

from __future__ import annotations

import socket
import ssl

from eggpool.config.schema import Server as ServerSettings
from eggpool.errors import StartError


def listeners(settings: ServerSettings) -> list[socket.socket]:
    """Bound sockets, one for each address that the host has. Raises StartError."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except socket.gaierror as error:
        raise StartError(
            f"The address {settings.host} cannot be listened on: it is not known. Set [server] host to an address of "
            "this machine, such as 127.0.0.1."
        ) from error
    sockets: list[socket.socket] = []
    for family, kind, protocol, _, address in dict.fromkeys(found):
        if sockets and settings.port == 0:
            break  # a free port is free for one family only
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            listener.bind(address)
            listener.setblocking(False)
        except OSError as error:
            for one in [*sockets, listener]:
                one.close()
            raise StartError(_why_not(settings, error)) from error
        sockets.append(listener)
    return sockets


def _why_not(settings: ServerSettings, error: OSError) -> str:
    place = f"{settings.host}:{settings.port}"
    if isinstance(error, PermissionError):
        return f"Listening on {place} is not permitted; choose a port of 1024 or above in [server] port."
    if error.errno in (98, 48):  # EADDRINUSE on Linux and on BSD
        return (
            f"The address {place} is in use, probably by another EggPool; stop that one or choose another port in "
            "[server] port."
        )
    return f"The address {place} cannot be listened on ({error.strerror}); set [server] host to one of this machine."


def tls(settings: ServerSettings) -> ssl.SSLContext | None:
    """What TLS needs; None without a certificate. Raises StartError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_cert, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(
            "The files of [server] tls_cert and tls_key cannot be used as a certificate and its key."
        ) from error
    return context
