"""Reading a request's top-level members with a type for each: the sound value, or one sentence about the fault.

For requests that are translated. What may live here: decoding and its faults. What may not: any dialect's fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

import msgspec

from eggpool.errors import WireError

Value = TypeVar("Value")

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def read_members(body: bytes) -> dict[str, msgspec.Raw]:
    """The outer object of a body. Raises WireError."""
    try:
        return _MEMBERS.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise WireError("The body is not a JSON object.") from None


def decode(members: Mapping[str, msgspec.Raw], name: str, decoder: msgspec.json.Decoder[Value]) -> Value | None:
    """One member, None when it is absent or null. Raises WireError that names it and where in it the fault is."""
    raw = members.get(name)
    if raw is None or not is_told(raw):
        return None
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError as error:
        # The decoder's words name types and a path, never a value.
        raise WireError(f"The field {name} is not what it should be: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise WireError(f"The field {name} is not valid JSON.") from None
    except RecursionError:
        raise WireError(f"The field {name} is nested too deeply.") from None


def is_told(raw: msgspec.Raw) -> bool:
    """Whether a member of a decoded value was there, and not null."""
    return bytes(raw) not in (b"", b"null")
