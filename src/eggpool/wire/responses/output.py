"""A Responses reply that is put together from events: its items as they grow, and the object around them.

Source: the OpenAI API reference, "The response object". What may live here: what the reply holds. What may not: the
events of a stream.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from eggpool.domain import Usage as TokenUsage
from eggpool.wire import bridge, fields, seals
from eggpool.wire.events import (
    BlockEnd,
    End,
    Event,
    Failed,
    RefusalDelta,
    Start,
    Stop,
    StopReason,
    TextDelta,
    ThinkingDelta,
    ThinkingSealed,
    ToolCallDelta,
    ToolCallStart,
    Usage,
)
from eggpool.wire.notes import highest
from eggpool.wire.prompt import Echo, Tool
from eggpool.wire.responses.words import ERROR_CODES, REASONS, stem_of

Json = dict[str, object]

Status = Literal["in_progress", "completed", "incomplete"]
"""Of an item: one in progress has just begun and is empty, an incomplete one broke off."""

# What a reply says of a request that left it out.
_UNSAID: Json = {
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "reasoning": {"effort": None, "summary": None},
    "temperature": None,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": None,
    "truncation": "disabled",
}


class TextItem:
    """A message of one part: words, or a refusal."""

    def __init__(self, item_id: str, place: int, *, refusal: bool) -> None:
        self.id = item_id
        self.place = place  # in the output
        self.refusal = refusal
        self.pieces: list[str] = []
        self.logprobs: list[object] = []

    @property
    def text(self) -> str:
        """The words so far."""
        return "".join(self.pieces)

    def part(self) -> Json:
        """The part as it stands."""
        if self.refusal:
            return {"type": "refusal", "refusal": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self.logprobs}

    def item(self, status: Status) -> Json:
        """The item, whole or just begun."""
        content = [] if status == "in_progress" else [self.part()]
        return {"type": "message", "id": self.id, "status": status, "role": "assistant", "content": content}


class ThoughtItem:
    """Thoughts, and what their maker wants back.

    They are always parts of a summary: nowhere else do agents look for them, and nothing else do they all send back.
    """

    def __init__(self, item_id: str, place: int) -> None:
        self.id = item_id
        self.place = place
        self.summary: dict[int, list[str]] = {}  # by the maker's number; counted here as they came
        self.sealed: str | None = None

    def add(self, event: ThinkingDelta) -> int:
        """Take a piece; give the place of its part in the summary."""
        part = event.part if event.summary else 0
        self.summary.setdefault(part, []).append(event.text)
        return list(self.summary).index(part)

    def seal(self, event: ThinkingSealed) -> None:
        """Take what their maker wants back."""
        self.sealed = event.encrypted or seals.lent(event.signature, event.redacted)

    def part_text(self, part: int) -> str:
        """A part of the summary as it stands."""
        return "".join(list(self.summary.values())[part])

    def item(self, status: Status) -> Json:
        """The item, whole or just begun."""
        item: Json = {"type": "reasoning", "id": self.id, "summary": []}
        if status == "in_progress":
            return item
        item["summary"] = [{"type": "summary_text", "text": "".join(pieces)} for pieces in self.summary.values()]
        if self.sealed is not None:
            item["encrypted_content"] = self.sealed
        return item


class CallItem:
    """A call of a tool: a function's with arguments, or a custom tool's with plain text."""

    def __init__(self, name: str, place: int, start: ToolCallStart, tool: Tool | None) -> None:
        self.custom = start.custom or (tool is not None and tool.custom)
        self.id = ("ctc_" if self.custom else "fc_") + name
        self.place = place
        self.pieces: list[str] = []
        self._unwrapper = bridge.Unwrapper() if self.custom and not start.custom else None
        self.name = start.name if tool is None else tool.name
        self._named: Json = {"call_id": start.id or f"call_{name}", "name": self.name}
        if tool is not None and tool.namespace is not None:
            self._named["namespace"] = tool.namespace

    @property
    def text(self) -> str:
        """The arguments or the input so far."""
        return "".join(self.pieces)

    def add(self, piece: str) -> str:
        """Take a piece; give what the client gets of it."""
        given = piece if self._unwrapper is None else self._unwrapper.feed(piece)
        if given:
            self.pieces.append(given)
        return given

    def rest(self) -> str:
        """The call is whole: what the client has not got yet. Arguments are never empty."""
        given = "" if self._unwrapper is None else self._unwrapper.rest()
        if not given and not self.pieces and not self.custom:
            given = "{}"
        if given:
            self.pieces.append(given)
        return given

    def item(self, status: Status) -> Json:
        """The item, whole or just begun."""
        text = "" if status == "in_progress" else self.text
        kind, field = ("custom_tool_call", "input") if self.custom else ("function_call", "arguments")
        return {"type": kind, "id": self.id, "status": status, **self._named, field: text}


OutputItem = TextItem | ThoughtItem | CallItem
Beginning = TextDelta | RefusalDelta | ThinkingDelta | ThinkingSealed | ToolCallStart
"""The events with which a block can begin."""


class Output:
    """One reply as far as it has come."""

    def __init__(self, echo: Echo) -> None:
        self._echo = echo
        self._start = Start("", echo.model)
        self._stem = "0"
        self._items: dict[int, OutputItem] = {}
        self._open: set[int] = set()
        self._usage: TokenUsage | None = None
        self._stop = StopReason.END
        self._failure: Failed | None = None
        self._ended = False

    def take(self, event: Event) -> None:
        """The next event."""
        match event:
            case TextDelta() | RefusalDelta() | ThinkingDelta() | ThinkingSealed() | ToolCallStart():
                self.grow(self.item(event.block) or self.begin(event), event)
            case ToolCallDelta():
                call = self.item(event.block)
                if isinstance(call, CallItem):
                    call.add(event.text)
            case BlockEnd():
                item = self.end(event.block)
                if isinstance(item, CallItem):
                    item.rest()
            case _:
                self.note(event)

    def note(self, event: Event) -> None:
        """An event about the whole reply; any other one changes nothing."""
        match event:
            case Start():
                self._start, self._stem = event, stem_of(event.id)
            case Usage():
                self._usage = highest(self._usage, event.usage)
            case Stop():
                self._stop = event.reason
            case Failed():
                self._failure = event
            case End():
                self._ended = True

    def begin(self, event: Beginning) -> OutputItem:
        """The item that begins with this event, empty."""
        name, place = f"{self._stem}_{event.block}", len(self._items)
        item: OutputItem
        match event:
            case TextDelta() | RefusalDelta():
                item = TextItem(f"msg_{name}", place, refusal=isinstance(event, RefusalDelta))
            case ThinkingDelta():
                item = ThoughtItem(f"rs_{name}", place)
            case ThinkingSealed():
                item = ThoughtItem(event.id or f"rs_{name}", place)
            case ToolCallStart():
                item = CallItem(name, place, event, self._tool(event.name))
        self._items[event.block] = item
        self._open.add(event.block)
        return item

    def item(self, block: int) -> OutputItem | None:
        """The item of a block, None before it begins."""
        return self._items.get(block)

    def end(self, block: int) -> OutputItem | None:
        """The item of a block that ends here; None when none had begun, or it ended before."""
        if block not in self._open:
            return None
        self._open.discard(block)
        return self._items[block]

    @property
    def open_blocks(self) -> list[int]:
        """The blocks that have begun and not ended."""
        return sorted(self._open)

    def grow(self, item: OutputItem, event: Beginning) -> int:
        """Add an event to its item; give the place of its part, where that has several."""
        match item, event:
            case TextItem(), TextDelta():
                item.pieces.append(event.text)
                if event.logprobs is not None:
                    item.logprobs += fields.items(msgspec.json.decode(event.logprobs))
            case TextItem(), RefusalDelta():
                item.pieces.append(event.text)
            case ThoughtItem(), ThinkingDelta():
                return item.add(event)
            case ThoughtItem(), ThinkingSealed():
                item.seal(event)
        return 0

    @property
    def status(self) -> str:
        """The status of the whole reply."""
        if self._failure is not None:
            return "failed"
        if not self._ended:
            return "in_progress"
        return "completed" if self._incomplete() is None else "incomplete"

    def response(self) -> Json:
        """The reply as it stands."""
        reason, failure = self._incomplete() if self._ended else None, self._failure
        payload: Json = {
            "id": f"resp_{self._stem}",
            "object": "response",
            "created_at": self._start.created_s or self._echo.now_s,
            "status": self.status,
            "background": False,
            "error": None if failure is None else {"code": error_code(failure), "message": failure.message},
            "incomplete_details": None if reason is None else {"reason": reason},
            "model": self._start.model or self._echo.model,
            "output": self._items_so_far() if self._ended or failure is not None else [],
            "previous_response_id": None,
            "store": False,
        }
        payload |= _UNSAID
        payload |= self._echo.fields
        payload["usage"] = None if self._usage is None else write_usage(self._usage)
        return payload

    def _items_so_far(self) -> list[Json]:
        return [item.item("incomplete" if block in self._open else "completed") for block, item in self._items.items()]

    def _incomplete(self) -> str | None:
        refused = any(isinstance(item, TextItem) and item.refusal for item in self._items.values())
        return None if refused and self._stop is StopReason.REFUSAL else REASONS.get(self._stop)

    def _tool(self, name: str) -> Tool | None:
        """The client's tool of that flat name, or, as some models write it, of that name without its group."""
        tools = self._echo.tools
        return tools.get(name) or next((tool for tool in tools.values() if tool.name == name), None)


def error_code(failure: Failed) -> str:
    """The code of a failure that clients know."""
    return ERROR_CODES.get(failure.code) or ERROR_CODES.get(failure.type, "server_error")


def write_usage(usage: TokenUsage) -> Json:
    """The usage block."""
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
