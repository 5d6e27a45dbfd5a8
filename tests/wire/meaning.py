"""What a reply means, whatever its events were cut into: two lists of events that mean the same give equal values."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec

from eggpool.domain import Usage as TokenUsage
from eggpool.wire import events as ev


class Part(msgspec.Struct):
    """One block."""

    kind: str
    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    id: str = ""
    name: str = ""


class Reply(msgspec.Struct):
    """A whole reply, or as much of one as has come."""

    id: str = ""
    model: str = ""
    parts: list[Part] = []
    stop: ev.StopReason | None = None
    sequence: str | None = None
    usage: TokenUsage | None = None
    dropped: list[str] = []
    error: tuple[str, str, str] | None = None
    whole: bool = False


def meaning(events: Iterable[ev.Event]) -> Reply:
    """The reply that the events tell; fails where they come in an order that no reply has."""
    reply = Reply(parts=[], dropped=[])
    parts: dict[int, Part] = {}
    ended: set[int] = set()
    for event in events:
        assert not reply.whole, "nothing comes after the end"
        assert reply.error is None, "nothing comes after an error"
        match event:
            case ev.Start():
                assert not parts, "the start comes first"
                reply.id, reply.model = event.id, event.model
            case ev.TextDelta():
                _part(parts, ended, event.block, "text").text += event.text
            case ev.RefusalDelta():
                _part(parts, ended, event.block, "refusal").text += event.text
            case ev.ThinkingDelta():
                _part(parts, ended, event.block, "thinking").text += event.text
            case ev.ThinkingSealed():
                part = _part(parts, ended, event.block, "thinking")
                part.signature, part.redacted = event.signature, event.redacted
            case ev.ToolCallStart():
                assert event.block not in parts, "a call is a block of its own"
                part = _part(parts, ended, event.block, "call")
                part.id, part.name = event.id, event.name
            case ev.ToolCallDelta():
                _part(parts, ended, event.block, "call").text += event.text
            case ev.BlockEnd():
                assert event.block in parts, "a block ends that never began"
                assert event.block not in ended, "a block ends twice"
                ended.add(event.block)
            case ev.Usage():
                reply.usage = event.usage
            case ev.Stop():
                reply.stop, reply.sequence = event.reason, event.sequence
            case ev.Dropped():
                reply.dropped.append(event.what)
            case ev.Failed():
                reply.error = (event.type, event.code, event.message)
            case ev.End():
                assert ended == set(parts), "a whole reply has no open block"
                reply.whole = True
            case ev.Ping():
                pass
    for part in parts.values():
        if part.kind == "call":
            part.text = _canonical(part.text)
    reply.parts = list(parts.values())
    return reply


def _part(parts: dict[int, Part], ended: set[int], number: int, kind: str) -> Part:
    assert number not in ended, "a block goes on after its end"
    if number not in parts:
        assert number == len(parts), "blocks are numbered in the order in which they begin"
        parts[number] = Part(kind)
    assert parts[number].kind == kind
    return parts[number]


def _canonical(arguments: str) -> str:
    """Arguments that mean the same are the same text; none are an empty object."""
    try:
        return json.dumps(json.loads(arguments or "{}"), sort_keys=True)
    except ValueError:
        return arguments
