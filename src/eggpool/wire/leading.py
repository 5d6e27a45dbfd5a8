"""How a conversation begins: its instructions and its first words from the user, read without decoding the rest.

A body of half a megabyte is a long conversation whose beginning has not changed since its first turn. Only elements
that begin within the first 64 KiB of the message list are looked at, text alone counts, and where cache marks stand or
whether a text is written as a string or as a list of parts makes no difference. What may live here: the walk along the
list and what is taken from a message. What may not: what the beginning is used for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from eggpool.wire import fields
from eggpool.wire.envelope import Envelope

WINDOW_BYTES = 64 * 1024  # of the message list, and of one message in it
MAX_ELEMENTS = 32  # walked until the user's first words; agents put a few instructions before them
SHORT_BYTES = 16 * 1024  # of a message list that is decoded at once, which is quicker than to look for its parts
SAMPLE_CHARS = 4096  # of each end of a text: what differs only in between is told apart by its length

_BILLING = "x-anthropic-billing-header:"
"""Claude Code's first system text begins so. Older versions change it from turn to turn."""

_INSTRUCTIONS = ("system", "instructions")
_BEFORE_THE_USER = frozenset({"system", "developer"})
_TEXTS = frozenset({None, "text", "input_text", "output_text"})

_INSTRUCTING, _ASKING = b"instructions:", b"user:"

_RAW = msgspec.json.Decoder(msgspec.Raw)
_TRAILING = re.compile(r"trailing characters \(byte (\d+)\)\Z")
_WHITE_SPACE = re.compile(rb"[ \t\n\r]*+")
_COMMA = re.compile(rb"[ \t\n\r]*+,[ \t\n\r]*+")
_ROLE = re.compile(rb'"role"[ \t\n\r]*+:[ \t\n\r]*+"(\w+)"')
_TEXT = re.compile(rb'"(?:text|content)"[ \t\n\r]*+:[ \t\n\r]*+"')
_TO_QUOTE = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)


def opening(envelope: Envelope) -> list[bytes]:
    """What tells one conversation from another: samples of its instructions and of the user's first message.

    Empty when the body has neither. The same for every turn of a conversation as long as its beginning is sent again.
    Never raises.
    """
    body, places = envelope.body, envelope.places
    samples = [(_INSTRUCTING, _of_value(body, *places[field])) for field in _INSTRUCTIONS if field in places]
    place = places.get("messages") or places.get("input")
    if place is not None:
        start, end = place
        if body.startswith(b"[", start):
            short = _of_short_list(body[start:end]) if end - start <= SHORT_BYTES else None
            samples += _of_list(body, start, end) if short is None else short
        else:
            samples.append((_ASKING, _of_value(body, start, end)))
    return [speaker + sample for speaker, sample in samples if sample]


def _of_short_list(raw: bytes) -> list[tuple[bytes, bytes]] | None:
    """What `_of_list` gives, for a list that can be decoded at once; None for one that is to be walked along."""
    samples: list[tuple[bytes, bytes]] = []
    for message in fields.items(fields.decode(raw))[:MAX_ELEMENTS]:
        if not isinstance(message, dict) or not message:
            return None
        role = message.get("role")
        if role == "user":
            samples.append((_ASKING, _sample(_text(message.get("content")))))
            break
        if fields.text(role) in _BEFORE_THE_USER:
            samples.append((_INSTRUCTING, _sample(_text(message.get("content")))))
    return samples or None


def _of_list(body: bytes, start: int, end: int) -> Iterator[tuple[bytes, bytes]]:
    """The samples of the elements up to the user's first message, each with who speaks."""
    whole = memoryview(body)
    last = min(end, start + WINDOW_BYTES)
    at = _after(_WHITE_SPACE, body, start + 1)
    for _ in range(MAX_ELEMENTS):
        if at >= last or body.startswith(b"]", at):
            return
        length = _length(whole[at : min(end, at + WINDOW_BYTES)])
        if length is None:
            speaker, sample = _glimpse(body, at, end)
            yield (_INSTRUCTING if speaker in _BEFORE_THE_USER else _ASKING), sample
            return
        message = fields.decode_object(whole[at : at + length])
        if message:
            role = fields.text(message.get("role"))
            sample = b"" if role is None else _sample(_text(message.get("content")))
        else:
            role, sample = _glimpse(body, at, at + length)
        if role in _BEFORE_THE_USER:
            yield _INSTRUCTING, sample
        elif role == "user":
            yield _ASKING, sample
            return
        at = _after(_COMMA, body, at + length)


def _length(window: memoryview) -> int | None:
    """How long the JSON value is that `window` begins with, white space after it included.

    None when it goes beyond the window or is no JSON. The decoder passes over the value at its own speed and then
    complains about the byte, counted from one, that follows it.
    """
    try:
        return memoryview(_RAW.decode(window)).nbytes
    except msgspec.DecodeError as error:
        told = _TRAILING.search(str(error))
        return int(told[1]) - 1 if told else None
    except (RecursionError, UnicodeDecodeError):
        return None


def _of_value(body: bytes, start: int, end: int) -> bytes:
    """The sample of a text, or of a list of parts, that stands as a value of its own."""
    if end - start > WINDOW_BYTES:
        if body.startswith(b'"', start):
            return _raw_text(body, start + 1, end)
        return _glimpse(body, start, end)[1]
    value = fields.decode(body[start:end])
    return _glimpse(body, start, end)[1] if value is None else _sample(_text(value))


def _glimpse(body: bytes, start: int, end: int) -> tuple[str | None, bytes]:
    """Role and beginning of the first text, of a message that is too long to be decoded or cannot be."""
    end = min(end, start + WINDOW_BYTES)
    role = _ROLE.search(body, start, end)
    text = _TEXT.search(body, start, end)
    return (
        role[1].decode("ascii", "replace") if role else None,
        _raw_text(body, text.end(), len(body)) if text else b"",
    )


def _raw_text(body: bytes, start: int, end: int) -> bytes:
    """The beginning of a text, escaped as it stands there."""
    match = _TO_QUOTE.match(body, start, min(end, start + SAMPLE_CHARS))
    return match[0] if match else b""


def _text(content: object) -> str:
    """The text of a message's content, which is a text or a list of parts."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in fields.items(content):
        text = part if isinstance(part, str) else None
        if isinstance(part, dict):
            kind = part.get("type")
            text = part.get("text") if kind is None or (isinstance(kind, str) and kind in _TEXTS) else None
        if isinstance(text, str) and not text.startswith(_BILLING):
            texts.append(text)
    return "".join(texts)


def _sample(text: str) -> bytes:
    if len(text) > 2 * SAMPLE_CHARS:
        text = f"{len(text)}:{text[:SAMPLE_CHARS]}{text[-SAMPLE_CHARS:]}"
    return text.encode("utf-8", "surrogatepass")


def _after(pattern: re.Pattern[bytes], body: bytes, at: int) -> int:
    match = pattern.match(body, at)
    return match.end() if match else len(body)
