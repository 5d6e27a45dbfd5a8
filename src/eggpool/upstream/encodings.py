"""Replies that come compressed although they were asked for plain: gzip and deflate are undone on the way.

Source: RFC 9110 section 8.4.1. Other encodings cannot be undone: such a reply is opaque. It is passed on with its
header where nobody has to read it, and is no answer where somebody does.
"""

from __future__ import annotations

import zlib

from eggpool.errors import UpstreamBroken

_MAX_STEP_BYTES = 16 * 1024 * 1024  # what one chunk may become: a reply is no place for a bomb

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def applied(content_encoding: str | None) -> list[str]:
    """The encodings that a Content-Encoding value names, in lower case, without those that change nothing."""
    named = (part.strip().lower() for part in (content_encoding or "").split(","))
    return [encoding for encoding in named if encoding not in ("", "identity")]


class Inflater:
    """Undoes one content encoding, chunk by chunk."""

    __slots__ = ("_begun", "_decoder", "_window_bits")

    def __init__(self, window_bits: int) -> None:
        self._window_bits = window_bits
        self._decoder = zlib.decompressobj(window_bits)
        self._begun = False

    @classmethod
    def of(cls, content_encoding: str | None) -> Inflater | None:
        """The one for a Content-Encoding value, None when there is nothing to undo or it is not known."""
        encodings = applied(content_encoding)
        bits = _WINDOW_BITS.get(encodings[0]) if len(encodings) == 1 else None
        return None if bits is None else cls(bits)

    def feed(self, chunk: bytes) -> bytes:
        """What the chunk becomes; an empty chunk ends the reply.

        Raises UpstreamBroken for what is not so encoded, and at the end of what was cut off.
        """
        if not chunk and self._begun and not self._decoder.eof:
            raise UpstreamBroken("The provider's reply ends before its encoding does.")
        self._begun = self._begun or bool(chunk)
        plain = bytearray()
        while chunk:
            if self._decoder.eof:  # gzip may come in several members (RFC 1952 section 2.2), and padded with zeros
                chunk = chunk.lstrip(b"\0")
                if not chunk:
                    break
                self._decoder = zlib.decompressobj(self._window_bits)
            try:
                plain += self._decoder.decompress(chunk, _MAX_STEP_BYTES + 1 - len(plain))
            except zlib.error as error:
                raise UpstreamBroken("The provider's reply is not encoded as its header says.") from error
            if len(plain) > _MAX_STEP_BYTES:
                raise UpstreamBroken("The provider's reply unpacks to more than is taken.")
            chunk = self._decoder.unused_data
        return bytes(plain)
