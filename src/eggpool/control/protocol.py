"""What is said over the control socket: one JSON object on a line asks, one answers.

A request names its `command`; an answer has either `result` or `error`. A field that is not known is passed over, so
that a command and a server of different versions understand each other as far as they can.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from eggpool.domain import Dialect

MAX_REQUEST_BYTES = 64 * 1024
MAX_ANSWER_BYTES = 64 * 1024 * 1024

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(min_length=1, max_length=2000)]


class Status(msgspec.Struct, frozen=True, tag="status", tag_field="command"):
    """How does the pool stand? Answered with a `PoolStatus`."""


class Explain(msgspec.Struct, frozen=True, tag="explain", tag_field="command"):
    """Where would a request go now? Answered with an `Explanation`."""

    model: Text
    dialect: Dialect | None = None
    conversation: Text | None = None
    client: Name = "default"  # whose conversation it is


class Rest(msgspec.Struct, frozen=True, tag="rest", tag_field="command"):
    """Let an account or a provider rest, until it is woken or for so many seconds. Answered with a `Rested`."""

    name: Name
    for_s: Annotated[float, Meta(gt=0)] | None = None


class Wake(msgspec.Struct, frozen=True, tag="wake", tag_field="command"):
    """End all rests of an account or a provider. Answered with a `Woken`."""

    name: Name


class SetUsed(msgspec.Struct, frozen=True, tag="set-used", tag_field="command"):
    """How far a quota window is used in truth: 0 is not at all, 1 is full. Answered with an empty object."""

    name: Name
    window: Name
    share: Annotated[float, Meta(ge=0, le=10)]


Request = Status | Explain | Rest | Wake | SetUsed


class Fault(msgspec.Struct, frozen=True):
    """Why there is no result: a machine-readable code, and one sentence."""

    code: str
    message: str


class Answer(msgspec.Struct, frozen=True):
    """One line from the server; the result is left as it is, and is empty where there is none."""

    result: msgspec.Raw = msgspec.Raw()
    error: Fault | None = None


def write_request(request: Request) -> bytes:
    """The line that asks."""
    return msgspec.json.encode(request) + b"\n"


def read_request(line: bytes) -> Request:
    """What a line asks. Raises msgspec.DecodeError (of which ValidationError is one) for anything else."""
    request: Request = msgspec.json.decode(line, type=Request)
    return request


def write_result(result: object) -> bytes:
    """The line that answers."""
    return msgspec.json.encode({"result": result}) + b"\n"


def write_fault(code: str, message: str) -> bytes:
    """The line that says why there is no answer."""
    return msgspec.json.encode({"error": Fault(code, message)}) + b"\n"


def read_answer(line: bytes) -> Answer:
    """What the server said. Raises msgspec.DecodeError."""
    return msgspec.json.decode(line, type=Answer)
