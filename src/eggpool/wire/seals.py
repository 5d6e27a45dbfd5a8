"""One dialect's sealed thoughts in the place that another one has for its own.

A model thinks, and with its thoughts comes something that only their maker understands: a signature and redacted blocks
of Anthropic, encrypted reasoning of OpenAI. A model that calls tools wants it back. A client keeps whatever stands in
that place and sends it back unread; so what belongs to another dialect can be lent the place, under a mark. What may
live here: the marks. What may not: who may get what back.
"""

from __future__ import annotations

import msgspec

_SIGNATURE = "eggpool.signature."
_REDACTED = "eggpool.redacted."
_ENCRYPTED = "eggpool.encrypted."


class Seal(msgspec.Struct, frozen=True):
    """What stood in a place for sealed thoughts. At most one field is set."""

    signature: str | None = None
    redacted: str | None = None
    encrypted: str | None = None


def lent(signature: str | None, redacted: str | None) -> str | None:
    """A signature or a redacted block for the place of encrypted reasoning; None when there is neither."""
    if signature is not None:
        return _SIGNATURE + signature
    return None if redacted is None else _REDACTED + redacted


def opened(encrypted: str | None) -> Seal:
    """What such a place holds."""
    if encrypted is None:
        return Seal()
    if encrypted.startswith(_SIGNATURE):
        return Seal(signature=encrypted.removeprefix(_SIGNATURE))
    if encrypted.startswith(_REDACTED):
        return Seal(redacted=encrypted.removeprefix(_REDACTED))
    return Seal(encrypted=encrypted)


def lent_as_signature(encrypted: str) -> str:
    """Encrypted reasoning for the place of a signature."""
    return _ENCRYPTED + encrypted


def opened_signature(signature: str | None) -> Seal:
    """What the place of a signature holds; an empty one holds nothing."""
    if not signature:
        return Seal()
    if signature.startswith(_ENCRYPTED):
        return Seal(encrypted=signature.removeprefix(_ENCRYPTED))
    return Seal(signature=signature)
