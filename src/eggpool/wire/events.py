"""The second pivot: what a reply is made of, in terms that no dialect owns.

A whole reply and a stream are the same thing here: a list of events, in this order: `Start`, then blocks, then
`Stop` and `Usage` (in either order, usage also earlier and more than once: it is cumulative), then `End`. A block
begins with its first event and ends with `BlockEnd`; `block` numbers them from 0 in the order in which they began.
`Failed` ends a reply that broke; nothing follows it, and no `End` comes.
"""

from __future__ import annotations

import enum

import msgspec

from eggpool.domain import Usage as TokenUsage


class StopReason(enum.StrEnum):
    """Why a model stopped."""

    END = "end"  # it had said all
    STOP_SEQUENCE = "stop_sequence"
    MAX_TOKENS = "max_tokens"
    TOOL_USE = "tool_use"
    REFUSAL = "refusal"
    CONTENT_FILTER = "content_filter"
    CONTEXT_FULL = "context_full"
    PAUSE = "pause"  # it wants to be asked to go on


class Start(msgspec.Struct, frozen=True, gc=False):
    """The reply begins. `model` is the provider's name for who answers; `created_s` is 0 where it does not say."""

    id: str
    model: str
    created_s: int = 0


class TextDelta(msgspec.Struct, frozen=True, gc=False):
    """More words. `logprobs` is a JSON list of OpenAI's token entries."""

    block: int
    text: str
    logprobs: bytes | None = None


class RefusalDelta(msgspec.Struct, frozen=True, gc=False):
    """More words of a refusal."""

    block: int
    text: str


class ThinkingDelta(msgspec.Struct, frozen=True, gc=False):
    """More thoughts; `part` numbers the parts of a summary."""

    block: int
    text: str
    part: int = 0
    summary: bool = False


class ThinkingSealed(msgspec.Struct, frozen=True, gc=False):
    """What only its maker understands, for the next turn: a signature, a redacted block, encrypted reasoning."""

    block: int
    signature: str | None = None
    redacted: str | None = None
    encrypted: str | None = None
    id: str | None = None


class ToolCallStart(msgspec.Struct, frozen=True, gc=False):
    """The model calls a tool, by its flat name."""

    block: int
    id: str
    name: str
    custom: bool = False


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """More of the arguments' JSON text, or of a custom tool's input."""

    block: int
    text: str


class BlockEnd(msgspec.Struct, frozen=True, gc=False):
    """A block is whole."""

    block: int


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts so far: cumulative, never to be added up."""

    usage: TokenUsage


class Stop(msgspec.Struct, frozen=True, gc=False):
    """Why the reply ends here."""

    reason: StopReason
    sequence: str | None = None  # the stop sequence that was met, where the dialect tells


class Dropped(msgspec.Struct, frozen=True, gc=False):
    """Something in the reply that this module has no event for; `what` is the dialect's own name for it."""

    what: str


class Ping(msgspec.Struct, frozen=True, gc=False):
    """A sign of life."""


class Failed(msgspec.Struct, frozen=True, gc=False):
    """The provider told an error instead of going on."""

    type: str
    code: str
    message: str


class End(msgspec.Struct, frozen=True, gc=False):
    """The provider's own word that the reply is whole."""


Event = (
    Start
    | TextDelta
    | RefusalDelta
    | ThinkingDelta
    | ThinkingSealed
    | ToolCallStart
    | ToolCallDelta
    | BlockEnd
    | Usage
    | Stop
    | Dropped
    | Ping
    | Failed
    | End
)
