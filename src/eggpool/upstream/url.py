"""Where a request goes: a URL taken apart once, into what a connection and a head need of it."""

from __future__ import annotations

from functools import cached_property
from urllib.parse import urlsplit

import msgspec

from eggpool.wire import head as heads

_NOT_IN_PATHS = bytes({*range(0x21), 0x7F})
_PORTS = {"http": 80, "https": 443}


class Url(msgspec.Struct, frozen=True, dict=True):
    """An absolute URL.

    `host` is a name or an address without brackets, `authority` what a Host header says, `origin` the scheme
    and that. `path` begins with a slash and has the query too; it is sent as it is.
    """

    scheme: str
    host: str
    port: int
    authority: str
    origin: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Url:
        """Raises ValueError for what is no absolute HTTP URL. Credentials and a fragment are left out."""
        parts = urlsplit(text)
        host = parts.hostname
        if parts.scheme not in _PORTS or not host:
            raise ValueError("a URL of a provider begins with http:// or https:// and a host")
        port = parts.port or _PORTS[parts.scheme]
        authority = f"[{host}]" if ":" in host else host
        if port != _PORTS[parts.scheme]:
            authority += f":{port}"
        path = f"{parts.path}?{parts.query}" if parts.query else parts.path
        return cls(parts.scheme, host, port, authority, f"{parts.scheme}://{authority}", path or "/")

    def at(self, path: str) -> Url:
        """Another path there, with its query."""
        return Url(self.scheme, self.host, self.port, self.authority, self.origin, path)

    @cached_property
    def target(self) -> bytes:
        """What stands in a request's head between its method and its other fields: path, version and Host.

        Raises ValueError for a path that holds what HTTP forbids.
        """
        path = self.path.encode("latin-1")
        if path.translate(None, _NOT_IN_PATHS) != path:
            raise ValueError("a path holds what HTTP forbids")
        return path + b" HTTP/1.1\r\n" + heads.written([(b"Host", self.authority.encode())])

    def __str__(self) -> str:
        return self.origin + self.path
