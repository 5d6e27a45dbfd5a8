"""Header fields as HTTP/1.1 writes them, in requests and in replies.

What may live here: bytes of a head. What may not: which fields cross the pool, and connections.
"""

from __future__ import annotations

from collections.abc import Sequence

# RFC 9110, 5.1 and 5.5: what a name and a value may not hold. A head with it would be more heads than one.
NOT_IN_VALUES = bytes({*range(0x20), 0x7F} - {0x09})
_NOT_IN_NAMES = NOT_IN_VALUES + b'\t ()<>@,;:\\"/[]?={}'


def written(fields: Sequence[tuple[bytes, bytes]]) -> bytes:
    """The lines of those fields. Raises ValueError, without their values, for what HTTP forbids in one."""
    # No loop of our own: this is done with each head, and there are four to a request.
    lines = b"\r\n".join([*map(b": ".join, fields), b""])
    names = b"".join(dict(fields))
    # Deleting what is forbidden, and missing nothing but the ends of lines, is much cheaper than a search.
    printable = len(lines.translate(None, NOT_IN_VALUES))
    if names.translate(None, _NOT_IN_NAMES) != names or printable != len(lines) - 2 * len(fields):
        raise ValueError("a header holds what HTTP forbids")
    return lines
