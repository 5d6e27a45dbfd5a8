"""The outermost object of a request, as raw slices of the body it came in.

Only the few fields that routing needs are read; their neighbours stay bytes. An edit is a splice at a known place, so
everything that is not meant to change keeps every byte, its white space and its order included. What may live here:
finding, reading and replacing top-level members. What may not: the meaning of messages, tools or any nested value.
"""

from __future__ import annotations

import re

import msgspec

from eggpool.errors import BadRequest

_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_WHITE_SPACE = re.compile(rb"[ \t\n\r]*")
# Possessive, so that a key of megabytes leaves nothing behind to come back to.
_KEY = re.compile(rb'"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t\n\r]*+:[ \t\n\r]*+', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

MAX_MODEL_NAME_CHARS = 512
MAX_MEMBERS = 1000  # at the top level; no API has a hundred

NOT_AN_OBJECT = "The request body is not a JSON object."


class Envelope(msgspec.Struct, frozen=True):
    """A request body that was found to be an object, and what was read from its top level.

    `places` holds (start, end) offsets into `body` of each member's value, in the order of the body.
    """

    body: bytes
    places: dict[str, tuple[int, int]]
    model: str
    stream: bool

    def raw(self, field: str) -> bytes | None:
        """The bytes of one member's value, None when it is absent."""
        place = self.places.get(field)
        return None if place is None else self.body[place[0] : place[1]]


def read(body: bytes) -> Envelope:
    """Decode the outer object of `body`. Raises BadRequest that names the fault; never quotes the body."""
    members = _members(body)
    if len(members) > MAX_MEMBERS:
        raise BadRequest(f"The request body has more than {MAX_MEMBERS} keys at its top level.")
    places = _places(body, members)
    return Envelope(
        body=body,
        places=places,
        model=_model(members),
        stream=_stream(members),
    )


def with_changes(envelope: Envelope, *, model: str | None = None, include_usage: bool = False) -> bytes:
    """The body with another model name and, when asked for, `stream_options.include_usage` set to true.

    Everything else stays byte for byte; without a change the very same object is returned. `stream_options` that are
    neither an object nor null are left for the provider to judge.
    """
    splices: list[tuple[int, int, bytes]] = []
    if model is not None and model != envelope.model:
        start, end = envelope.places["model"]
        splices.append((start, end, msgspec.json.encode(model)))
    if include_usage and (splice := _usage_splice(envelope)):
        splices.append(splice)
    if not splices:
        return envelope.body
    splices.sort()
    whole = memoryview(envelope.body)
    parts: list[bytes | memoryview] = []
    at = 0
    for start, end, replacement in splices:
        parts += (whole[at:start], replacement)
        at = end
    parts.append(whole[at:])
    return b"".join(parts)


def says_include_usage(envelope: Envelope) -> bool:
    """True when the client itself set `stream_options.include_usage`, to whatever value.

    Raises BadRequest when `stream_options` is an object that cannot be read.
    """
    raw = envelope.raw("stream_options")
    if raw is None or not raw.startswith(b"{"):
        return False
    return "include_usage" in _members(raw)


def _usage_splice(envelope: Envelope) -> tuple[int, int, bytes] | None:
    place = envelope.places.get("stream_options")
    if place is None:
        end = envelope.body.rindex(b"}")
        comma = b"," if envelope.places else b""
        return end, end, comma + b'"stream_options":{"include_usage":true}'
    start, end = place
    raw = envelope.body[start:end]
    if raw == b"null":
        return start, end, b'{"include_usage":true}'
    if not raw.startswith(b"{"):
        return None
    # Looked at only, so that what cannot be decoded further inside raises nothing here.
    comma = b"," if raw[1:-1].strip() else b""
    return end - 1, end - 1, comma + b'"include_usage":true'


def _members(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        return _MEMBERS.decode(body)
    except msgspec.ValidationError:
        raise BadRequest(NOT_AN_OBJECT) from None
    except msgspec.DecodeError as error:
        raise BadRequest(_fault(body, str(error))) from None
    except RecursionError:
        raise BadRequest("The request body is nested too deeply.") from None
    except UnicodeDecodeError:
        raise BadRequest("The request body is not valid UTF-8.") from None


def _fault(body: bytes, told: str) -> str:
    if not body.strip():
        return "The request body is empty; a JSON object is needed."
    if body.startswith(b"\xef\xbb\xbf"):
        return "The request body begins with a byte order mark; send JSON without it."
    if "truncated" in told:
        # The decoder reports a surrogate without its partner as truncated input.
        if _LONE_SURROGATE.search(body):
            return "The request body is not valid JSON: it is cut off, or holds half of a surrogate pair (\\ud83d)."
        return "The request body is not valid JSON: it is cut off."
    place = re.search(r"\(byte (\d+)\)", told)
    where = f" at byte {place[1]}" if place else ""
    return f"The request body is not valid JSON{where}."


def _places(body: bytes, members: dict[str, msgspec.Raw]) -> dict[str, tuple[int, int]]:
    """Where each value stands. Raises BadRequest when two keys are equal."""
    places: dict[str, tuple[int, int]] = {}
    at = 1
    for name, raw in members.items():
        start = at + len(name) + 3
        end = start + memoryview(raw).nbytes
        places[name] = (start, end)
        at = end + 1
    # White space, letters beyond ASCII or an escape in a key, and a second equal key each make a body longer than this.
    # So nothing of the kind is in one of exactly that length, which most clients send, and the values stand where they
    # must.
    return places if at == len(body) and places else _places_walked(body, members)


def _places_walked(body: bytes, members: dict[str, msgspec.Raw]) -> dict[str, tuple[int, int]]:
    """The same for any way of writing, member by member. The decoder keeps the last of two equal keys, so the first one
    then differs here."""
    places: dict[str, tuple[int, int]] = {}
    whole = memoryview(body)
    at = body.index(b"{") + 1
    for name, raw in members.items():
        at = _skip(body, at)
        if places:
            at = _skip(body, at + 1)  # the comma
        start = _value_start(body, at, name)
        end = start + memoryview(raw).nbytes
        # Two raws are compared at once; two views would be compared byte by byte.
        if start < 0 or msgspec.Raw(whole[start:end]) != raw:
            raise BadRequest("The request body has the same key twice at its top level.")
        places[name] = (start, end)
        at = end
    if body[_skip(body, at) : _skip(body, at) + 1] != b"}":
        raise BadRequest("The request body has the same key twice at its top level.")
    return places


def _value_start(body: bytes, at: int, name: str) -> int:
    """Where the value of the member at `at` begins; -1 when the member has another name."""
    plain = b'"' + name.encode() + b'":'
    if body.startswith(plain, at):
        return _skip(body, at + len(plain))
    key = _KEY.match(body, at)
    return key.end() if key and _text(key[1]) == name else -1


def _skip(body: bytes, at: int) -> int:
    if body[at : at + 1] not in b" \t\n\r":
        return at
    match = _WHITE_SPACE.match(body, at)
    return match.end() if match else at


def _text(key: bytes) -> str:
    if b"\\" in key:
        return msgspec.json.decode(b'"' + key + b'"', type=str)
    return key.decode()


def _model(members: dict[str, msgspec.Raw]) -> str:
    raw = members.get("model")
    if raw is None:
        raise BadRequest("The request names no model; set the field model.", param="model")
    try:
        model = _TEXT.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise BadRequest("The field model must be a text.", param="model") from None
    if _CONTROL.search(model):
        raise BadRequest("The field model holds a control character.", param="model")
    if not model.strip():
        raise BadRequest("The field model is empty.", param="model")
    if len(model) > MAX_MODEL_NAME_CHARS:
        raise BadRequest(f"The field model is longer than {MAX_MODEL_NAME_CHARS} characters.", param="model")
    return model


def _stream(members: dict[str, msgspec.Raw]) -> bool:
    raw = members.get("stream")
    value = b"null" if raw is None else bytes(raw)
    if value not in (b"true", b"false", b"null"):
        raise BadRequest("The field stream must be true or false.", param="stream")
    return value == b"true"
