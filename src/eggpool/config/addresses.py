"""URLs, endpoint paths and file paths of a configuration: what is refused, and the one form that is kept.

A ConfigError raised here holds the end of a sentence about the address and never quotes it: it may hold a password.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from eggpool.errors import ConfigError

OUTBOUND_SCHEMES = ("http", "https", "socks4", "socks5", "socks5h")

_ENDS_IN_VERSION = re.compile(r"/v\d+[a-z0-9]*\Z")
_BEGINS_WITH_VERSION = re.compile(r"(/api|/compatible-mode)?/v\d+[a-z0-9]*(/|\Z)")
_SPACE_OR_CONTROL = re.compile(r"[\s\x00-\x1f\x7f\\]")


def base_url(text: str) -> str:
    """A provider's URL without trailing slashes; a ConfigError says what is wrong with it."""
    if _SPACE_OR_CONTROL.search(text) or not text.isascii():
        raise ConfigError(("must be a URL in ASCII without white space",))
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port is None or parts.port > 0
    except ValueError:
        raise ConfigError(("is not a URL",)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or not port_is_fine:
        raise ConfigError(("must be an absolute http:// or https:// URL",))
    if "@" in parts.netloc:
        raise ConfigError(("must not contain credentials; keys belong to accounts",))
    if "?" in text or "#" in text:
        raise ConfigError(("must not contain a query or a fragment",))
    return text.rstrip("/")


def repeats_version(url: str, path: str) -> bool:
    """Whether a base URL ends in a version and the endpoint path below it begins with one, as in /v1/v1/models."""
    return bool(_ENDS_IN_VERSION.search(url) and _BEGINS_WITH_VERSION.match(path))


def outbound_url(text: str) -> str:
    """A proxy URL with its credentials before the host; a ConfigError says what is wrong with it.

    Old files write them after `#`, as in `socks5://host:1080#name:password`.
    """
    scheme, separator, _ = text.partition("://")
    if not separator or scheme.lower() not in OUTBOUND_SCHEMES:
        raise ConfigError(("has a scheme that is not supported; use " + ", ".join(OUTBOUND_SCHEMES),))
    if _SPACE_OR_CONTROL.search(text):
        raise ConfigError(("contains white space or control characters",))
    try:
        parts = urlsplit(text)
        complete = bool(parts.hostname and parts.port)
    except ValueError:
        raise ConfigError(("is not a URL",)) from None
    if not complete:
        raise ConfigError(("must name a host and a port",))
    if parts.path not in ("", "/") or parts.query:
        raise ConfigError(("must end after the port",))
    credentials, at_sign, address = parts.netloc.rpartition("@")
    if parts.fragment:
        if at_sign:
            raise ConfigError(("has credentials twice, before the host and after '#'",))
        name, _, password = parts.fragment.partition(":")
        credentials, at_sign = f"{quote(name, safe='')}:{quote(password, safe='')}", "@"
    return f"{scheme.lower()}://{credentials}{at_sign}{address}"


def file_path(text: str, folder: str, environ: Mapping[str, str]) -> str:
    """An absolute path: `~` is the user's home, a relative path begins at `folder`."""
    if not text or "\0" in text:
        raise ConfigError(("must be a path",))
    if text == "~" or text.startswith("~/"):
        home = environ.get("HOME")
        if not home:
            raise ConfigError(("begins with '~', but HOME is not set",))
        text = home + text[1:]
    elif text.startswith("~"):
        raise ConfigError(("begins with another user's home; write the path out",))
    return posixpath.normpath(posixpath.join(folder, text))


def data_file(name: str, folder: str, environ: Mapping[str, str]) -> str:
    """A file in the user's data folder: $XDG_DATA_HOME/eggpool, else ~/.local/share/eggpool.

    Without a home (a service user), it lies beside the configuration.
    """
    data = environ.get("XDG_DATA_HOME", "")
    if not data.startswith("/"):  # a relative one is to be ignored (XDG Base Directory Specification)
        home = environ.get("HOME", "")
        if not home.startswith("/"):
            return posixpath.join(folder, name)
        data = posixpath.join(home, ".local/share")
    return posixpath.join(data, "eggpool", name)
