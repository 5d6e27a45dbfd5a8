"""Tools that take free text, as functions with one text parameter, and the calls of such functions as free text again.

OpenAI's dialects know custom tools: the model writes plain text, perhaps after a grammar, instead of JSON arguments.
Where a dialect or a provider knows functions only, the text becomes the one parameter `input`. What may live here:
that disguise, for tools and for calls, whole and in pieces.
"""

from __future__ import annotations

import enum
import re

import msgspec

from eggpool.wire import fields
from eggpool.wire.prompt import Tool

_PARAMETERS = msgspec.Raw(
    b'{"type":"object","properties":{"input":{"type":"string","description":"The input of the tool as plain text."}},'
    b'"required":["input"],"additionalProperties":false}'
)
_HINT = "The parameter input takes the tool's input as plain text."

# A model that ignores the parameter's name and writes without an end is not waited for beyond this.
_MAX_HELD_CHARS = 1024 * 1024

_HEX = "[0-9a-fA-F]"
_HIGH = rf"\\u[dD][89abAB]{_HEX}{{2}}"
_LOW = rf"\\u[dD][c-fC-F]{_HEX}{{2}}"
_BROKEN = rf"\\u(?={_HEX}{{0,3}}[^0-9a-fA-F])"

# What of a JSON string's inside can be read without knowing what follows. Half a surrogate pair needs what follows.
_READABLE = re.compile(
    rf'(?:[^"\\]+|\\[^u]|{_HIGH}{_LOW}|{_HIGH}(?=[^\\]|\\[^u]|\\u{_HEX}{{4}}|{_BROKEN})'
    rf"|\\u(?![dD][89abAB]){_HEX}{{4}}|{_BROKEN})*",
    re.DOTALL,
)
_ESCAPE = re.compile(rf"({_HIGH})({_LOW})|\\u({_HEX}{{4}})|\\(.)", re.DOTALL)
_CHARACTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}

_OPENING = re.compile(r'\s*\{\s*"input"\s*:\s*"')
_OPENING_SO_FAR = re.compile(r'\s*(?:\{\s*(?:"(?:i(?:n(?:p(?:u(?:t(?:"\s*(?::\s*)?)?)?)?)?)?)?)?)?')


def as_function(tool: Tool) -> Tool:
    """A custom tool as a function that has its name; any other tool as it is. A grammar is told in the description."""
    if not tool.custom:
        return tool
    grammar = _grammar(tool)
    told = [text for text in (tool.description, _HINT, grammar) if text]
    return msgspec.structs.replace(
        tool, description="\n\n".join(told), parameters=_PARAMETERS, custom=False, format=None
    )


def wrap(text: str) -> str:
    """A custom tool's input as the arguments of the function that stands for it."""
    return msgspec.json.encode({"input": text}).decode()


def unwrap(arguments: str) -> str:
    """The custom tool's input in a function's arguments.

    A model that named the only parameter otherwise, or wrote plain text at once, is understood all the same.
    """
    told = Unwrapper()
    return told.feed(arguments) + told.rest()


class _Reading(enum.Enum):
    OPENING = enum.auto()  # the parameter has not begun
    INPUT = enum.auto()  # inside the parameter
    PLAIN = enum.auto()  # these are no JSON arguments
    WAITING = enum.auto()  # they are, but other ones than expected: only the whole tells
    CLOSED = enum.auto()  # the parameter has ended


class Unwrapper:
    """Takes a function's arguments in any pieces, and gives the custom tool's input as far as it is known."""

    __slots__ = ("_held", "_reading")

    def __init__(self) -> None:
        self._held = ""  # what has come and has not been given
        self._reading = _Reading.OPENING

    def feed(self, piece: str) -> str:
        """Take a piece; give what it completes of the input, empty for nothing yet."""
        self._held += piece
        if self._reading is _Reading.OPENING:
            self._open()
        match self._reading:
            case _Reading.INPUT:
                return self._read()
            case _Reading.PLAIN:
                return self._take(len(self._held))
            case _Reading.WAITING if len(self._held) > _MAX_HELD_CHARS:
                self._reading = _Reading.PLAIN
                return self._take(len(self._held))
            case _Reading.CLOSED:
                self._held = ""
        return ""

    def rest(self) -> str:
        """The arguments have ended: what of the input had to wait for that."""
        held = self._take(len(self._held))
        match self._reading:
            case _Reading.INPUT:
                return _unescape(held)  # cut short, perhaps inside an escape
            case _Reading.CLOSED:
                return ""
            case _:
                return _only_text(held)

    def _open(self) -> None:
        opening = _OPENING.match(self._held)
        if opening:
            self._take(opening.end())
            self._reading = _Reading.INPUT
        elif not _OPENING_SO_FAR.fullmatch(self._held):
            braced = self._held.lstrip().startswith("{")
            self._reading = _Reading.WAITING if braced else _Reading.PLAIN

    def _read(self) -> str:
        readable = _READABLE.match(self._held)
        text = _unescape(self._take(readable.end() if readable else 0))
        if self._held.startswith('"'):
            self._reading, self._held = _Reading.CLOSED, ""
        return text

    def _take(self, length: int) -> str:
        taken, self._held = self._held[:length], self._held[length:]
        return taken


def _unescape(inside: str) -> str:
    """The inside of a JSON string as text; what is no escape stands for itself, half a surrogate pair for U+FFFD."""
    return _ESCAPE.sub(_character, inside) if "\\" in inside else inside


def _character(escape: re.Match[str]) -> str:
    high, low, code, letter = escape.groups()
    if high is not None:
        return chr(0x10000 + ((int(high[2:], 16) - 0xD800) << 10) + int(low[2:], 16) - 0xDC00)
    if code is not None:
        number = int(code, 16)
        return "\ufffd" if 0xD800 <= number < 0xE000 else chr(number)
    return _CHARACTERS.get(letter, letter)


def _only_text(arguments: str) -> str:
    """The one text in the arguments; the arguments themselves when they are anything else."""
    members = fields.decode_object(arguments.encode("utf-8", "replace"))
    text = members.get("input") if len(members) != 1 else next(iter(members.values()))
    return text if isinstance(text, str) else arguments


def _grammar(tool: Tool) -> str:
    """A custom tool's grammar in words, empty when it has none."""
    told = {} if tool.format is None else fields.decode_object(bytes(tool.format))
    inner = fields.mapping(told.get("grammar")) or told  # Chat keeps the grammar one level deeper than Responses
    definition, syntax = fields.text(inner.get("definition")), fields.text(inner.get("syntax"))
    if not definition:
        return ""
    return f"The input must follow this grammar{f' ({syntax})' if syntax else ''}:\n{definition}"
