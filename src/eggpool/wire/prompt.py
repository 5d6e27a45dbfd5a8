"""The first pivot: what a request is made of, in terms that no dialect owns.

A dialect reads its requests into a `Prompt` and writes a `Prompt` as one of its own; so each dialect is known in one
place, and no pair of dialects is. What is here is what at least two dialects know. What only one of them knows stays in
`extras` under its own name, so that whoever writes the prompt elsewhere can say what was left behind.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Literal

import msgspec

from eggpool.errors import WireError

Role = Literal["system", "developer", "user", "assistant"]


class CannotCarry(WireError):
    """The request needs something that the other dialect has no words for; `param` names the field at fault."""

    code = "cannot_translate"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class CacheMark(msgspec.Struct, frozen=True):
    """Here a prompt cache should end. `ttl` is "5m" or "1h" where the client said so."""

    ttl: str | None = None


class Text(msgspec.Struct, frozen=True, tag=True):
    """Words."""

    text: str
    cache: CacheMark | None = None


class Image(msgspec.Struct, frozen=True, tag=True):
    """A picture: either a URL, or base64 `data` of a `media_type`."""

    url: str | None = None
    data: str | None = None
    media_type: str | None = None
    detail: str | None = None
    cache: CacheMark | None = None


class Document(msgspec.Struct, frozen=True, tag=True):
    """A file to read: a URL, base64 `data` of a `media_type`, or plain `text`."""

    url: str | None = None
    data: str | None = None
    text: str | None = None
    media_type: str | None = None
    name: str | None = None
    cache: CacheMark | None = None


class Thinking(msgspec.Struct, frozen=True, tag=True):
    """What a model thought in an earlier turn.

    `signature`, `redacted` and `encrypted` are understood only by whoever made them: Anthropic's signature and
    redacted block, OpenAI's encrypted reasoning. `summary` are OpenAI's summary parts.
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    encrypted: str | None = None
    summary: tuple[str, ...] = ()
    id: str | None = None


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A model's refusal in an earlier turn."""

    text: str


class ToolCall(msgspec.Struct, frozen=True, tag=True):
    """A call that the model made. `arguments` is the JSON text as it was written, or free text of a custom tool.

    `name` is the flat name, see `Tool.flat_name`.
    """

    id: str
    name: str
    arguments: str
    custom: bool = False
    cache: CacheMark | None = None


class ToolResult(msgspec.Struct, frozen=True, tag=True):
    """What a call gave. `failed` is None where the dialect does not say."""

    call_id: str
    content: tuple[Text | Image | Document, ...]
    failed: bool | None = None
    custom: bool = False
    cache: CacheMark | None = None


Block = Text | Image | Document | Thinking | Refused | ToolCall | ToolResult


class Turn(msgspec.Struct, frozen=True):
    """One side's words. Results of tools stand in a user's turn; neighbouring turns of one role are one turn."""

    role: Role
    blocks: tuple[Block, ...]


class Tool(msgspec.Struct, frozen=True):
    """A tool that the client runs. `parameters` is a JSON schema; a `custom` tool takes free text instead."""

    name: str
    description: str | None = None
    parameters: msgspec.Raw | None = None
    strict: bool | None = None
    custom: bool = False
    format: msgspec.Raw | None = None  # a custom tool's grammar
    namespace: str | None = None  # of Responses: tools may stand in groups
    cache: CacheMark | None = None

    @property
    def flat_name(self) -> str:
        """The name without groups: what the tool is called where there are none."""
        return self.name if self.namespace is None else f"{self.namespace}__{self.name}"


class ServerTool(msgspec.Struct, frozen=True):
    """A tool that the provider runs itself, such as a web search. `type` is the dialect's own name for it."""

    type: str
    raw: msgspec.Raw


class ToolChoice(msgspec.Struct, frozen=True):
    """Which tool the model may or must call. `name` is a flat name, or the type of a server tool."""

    mode: Literal["auto", "none", "required", "named"]
    name: str | None = None
    server: bool = False


class Effort(enum.StrEnum):
    """How much a model shall think, in the words that Chat and Responses share."""

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"


class Reasoning(msgspec.Struct, frozen=True):
    """How a model shall think. `budget_tokens` is Messages' measure, `effort` that of the others and of newer Messages.

    `adaptive`: the model decides itself; `enabled` is False where thinking was switched off.
    """

    enabled: bool = True
    effort: Effort | None = None
    budget_tokens: int | None = None
    adaptive: bool = False
    summary: str | None = None  # of Responses: auto, concise, detailed


class Format(msgspec.Struct, frozen=True):
    """The shape that the answer must have. `schema` is None for any JSON object."""

    schema: msgspec.Raw | None = None
    name: str | None = None
    description: str | None = None
    strict: bool | None = None


class Sampling(msgspec.Struct, frozen=True):
    """How words are drawn; None where the client leaves it to the provider."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()


class Prompt(msgspec.Struct, frozen=True):
    """A whole request.

    `instructions` stand before all turns; system and developer turns further on stay where they are. `pins` names the
    fields that refer to what only one provider knows (`previous_response_id`, `store`, ...): such a request can only be
    served in its own dialect. `extras` holds what this module has no field for, by the dialect's own name; `dropped`
    names what stands further inside and has no place here, such as the results of a provider's own tools.
    """

    model: str
    turns: tuple[Turn, ...]
    instructions: tuple[Text, ...] = ()
    stream: bool = False
    include_usage: bool = False  # of Chat: the client wants the usage of a stream
    tools: tuple[Tool | ServerTool, ...] = ()
    tool_choice: ToolChoice | None = None
    parallel_tools: bool | None = None
    max_output_tokens: int | None = None
    sampling: Sampling = Sampling()
    reasoning: Reasoning | None = None
    format: Format | None = None
    verbosity: str | None = None
    user: str | None = None  # who asks, as the client names them
    cache_key: str | None = None  # of Responses and Chat: `prompt_cache_key`
    choices: int = 1
    logprobs: bool = False
    top_logprobs: int | None = None
    pins: tuple[str, ...] = ()
    extras: Mapping[str, msgspec.Raw] = {}
    dropped: tuple[str, ...] = ()


class Written(msgspec.Struct, frozen=True):
    """A prompt in the words of a dialect: the JSON body, and what of it could not be said, by field name."""

    body: bytes
    lost: tuple[str, ...] = ()


class Echo(msgspec.Struct, frozen=True):
    """What the writer of a reply has to know of the request.

    `tools` is by flat name. `fields` are those of the request that the dialect repeats in its reply. `now_s` is when
    the request came, in seconds since 1970, for replies that tell no time.
    """

    model: str = ""
    now_s: int = 0
    include_usage: bool = False
    tools: Mapping[str, Tool] = {}
    fields: Mapping[str, msgspec.Raw] = {}


def refuse_forced(prompt: Prompt) -> None:
    """Nothing that a model can be offered is left. Raises CannotCarry, naming a tool, where it had to call one."""
    choice = prompt.tool_choice
    if choice is not None and choice.mode == "required" and prompt.tools:
        first = prompt.tools[0]
        name = first.type if isinstance(first, ServerTool) else first.name
        raise CannotCarry(
            f"The tool {name} is run by providers of another dialect only; leave it out or do not force it.",
            param="tool_choice",
        )


def tools_by_name(prompt: Prompt) -> dict[str, Tool]:
    """The client's own tools by their flat names."""
    return {tool.flat_name: tool for tool in prompt.tools if isinstance(tool, Tool)}
