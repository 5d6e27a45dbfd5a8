"""Who may call: client keys, allowed hosts, the caller's address. Tiny, in constant time, without a database.

Who is refused here is a stranger: counted, and not booked, because anybody could fill a disk so.

Keys are compared by their SHA-256: a key has 256 random bits, so a slow hash would guard nothing and cost each request.
One that was accepted is known again by a hash with a seed of this process, which tells nobody anything by its time.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping, Sequence

from eggpool.config.schema import Config
from eggpool.errors import HostNotAllowed, Unauthorized

Headers = Sequence[tuple[bytes, bytes]]

DEFAULT_CLIENT = "default"
_SHA256 = hashlib.sha256()  # copied, because to look the algorithm up costs more than to use it


class Access:
    """The rules of one configuration. `refused` is how many requests they have kept out."""

    def __init__(self, config: Config) -> None:
        self.refused = 0
        self._accepted: dict[bytes, str] = {}
        self._clients: dict[bytes, str] = {
            bytes.fromhex(client.key_hash.removeprefix("sha256:")): client.name for client in config.clients
        }
        if config.server.api_key is not None:
            self._clients[_digest(config.server.api_key.reveal().encode())] = DEFAULT_CLIENT
        self._hosts = frozenset(host.lower() for host in config.security.allowed_hosts)
        self._trusted = tuple(
            ipaddress.ip_network(network, strict=False) for network in config.security.trusted_proxies
        )

    def client(self, named: Mapping[bytes, bytes]) -> str:
        """The name of the client whose key came with a request, in these headers. Raises Unauthorized."""
        key = presented_key(named)
        if key is None:
            self.refused += 1
            raise Unauthorized("This pool needs a key: send it as 'Authorization: Bearer KEY' or as 'x-api-key: KEY'.")
        known_again = self._accepted.get(key)
        if known_again is not None:
            return known_again
        digest = _digest(key)
        found: str | None = None
        for known, name in self._clients.items():
            if hmac.compare_digest(known, digest):
                found = name
        if found is None:
            self.refused += 1
            raise Unauthorized("The key is not one of this pool; 'eggpool getkey' prints the right one.")
        self._accepted[key] = found
        return found

    def check_host(self, headers: Headers) -> None:
        """Refuse a Host header that is not allowed, when the configuration names any. Raises HostNotAllowed."""
        if not self._hosts:
            return
        host = _first(headers, b"host").decode("latin-1").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if host not in self._hosts and name not in self._hosts:
            self.refused += 1
            raise HostNotAllowed("The Host header of this request is not among [security] allowed_hosts.")

    def address(self, peer: str, headers: Headers) -> str:
        """The caller's address: the peer's, or what trusted proxies say, taken from the right."""
        if not self._trusted or not self._is_trusted(peer):
            return peer
        hops = [
            hop.strip()
            for name, value in headers
            if name == b"x-forwarded-for"
            for hop in value.decode("latin-1").split(",")
        ]
        for hop in reversed(hops):
            if not _is_address(hop):
                break
            peer = hop
            if not self._is_trusted(hop):
                break
        return peer

    def _is_trusted(self, address: str) -> bool:
        return _is_address(address) and any(ipaddress.ip_address(address) in network for network in self._trusted)


def presented_key(named: Mapping[bytes, bytes]) -> bytes | None:
    """The key that a request brought, from the first of the two headers that agents use which holds one."""
    scheme, _, key = named.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and (key := key.strip()):
        return key
    return named.get(b"x-api-key", b"").strip() or None


def _digest(key: bytes) -> bytes:
    hashed = _SHA256.copy()
    hashed.update(key)
    return hashed.digest()


def _first(headers: Headers, wanted: bytes) -> bytes:
    return next((value for name, value in headers if name == wanted), b"")


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
