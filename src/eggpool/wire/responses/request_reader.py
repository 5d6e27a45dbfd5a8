"""Responses requests, read into a `Prompt`.

Source: the OpenAI API reference, "Create a model response"; for tools inside the input (`additional_tools`) and groups
of tools (`namespace`) what Codex sends.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping
from typing import TypeVar

import msgspec

from eggpool.errors import WireError
from eggpool.wire import seals
from eggpool.wire.members import decode, is_told, read_members
from eggpool.wire.prompt import (
    Block,
    CacheMark,
    CannotCarry,
    Document,
    Echo,
    Effort,
    Format,
    Image,
    Prompt,
    Reasoning,
    Refused,
    Role,
    Sampling,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    tools_by_name,
)
from eggpool.wire.responses.tools import flat, read_choice, read_tools, unique
from eggpool.wire.responses.words import ECHOED, LOGPROBS, SEALED_THOUGHTS


class _Kind(msgspec.Struct):
    """What tells one input item from another. A message may leave out its type, a reference also."""

    type: str | None = None
    role: str | None = None
    id: str | None = None


class _Part(msgspec.Struct):
    type: str = "input_text"
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None
    prompt_cache_breakpoint: dict[str, object] | None = None


class _Message(msgspec.Struct):
    role: str | None = None
    content: str | list[_Part | str] | None = None
    phase: str | None = None


class _Words(msgspec.Struct):
    text: str = ""


class _Reasoning(msgspec.Struct):
    id: str | None = None
    summary: list[_Words] | None = None
    content: list[_Words] | None = None
    encrypted_content: str | None = None


class _Call(msgspec.Struct):
    call_id: str | None = None
    id: str | None = None
    name: str = ""
    namespace: str | None = None
    arguments: str | dict[str, object] | None = None
    input: str | None = None


class _Output(msgspec.Struct):
    call_id: str | None = None
    output: str | list[_Part | str] | None = None


class _Tools(msgspec.Struct):
    tools: list[msgspec.Raw] | None = None


class _Effort(msgspec.Struct):
    effort: str | None = None
    summary: str | None = None
    generate_summary: str | None = None


class _Format(msgspec.Struct):
    type: str = "text"
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class _TextSettings(msgspec.Struct):
    format: _Format | None = None
    verbosity: str | None = None


Value = TypeVar("Value")

_INPUT = msgspec.json.Decoder(str | list[msgspec.Raw])
_KIND = msgspec.json.Decoder(_Kind)
_MESSAGE = msgspec.json.Decoder(_Message)
_PART = msgspec.json.Decoder(_Part)
_REASONING = msgspec.json.Decoder(_Reasoning)
_CALL = msgspec.json.Decoder(_Call)
_OUTPUT = msgspec.json.Decoder(_Output)
_TOOLS_ITEM = msgspec.json.Decoder(_Tools)
_TOOLS = msgspec.json.Decoder(list[msgspec.Raw])
_EFFORT = msgspec.json.Decoder(_Effort)
_TEXT_SETTINGS = msgspec.json.Decoder(_TextSettings)
_INCLUDE = msgspec.json.Decoder(list[str])
_TEXT = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool)
_COUNT = msgspec.json.Decoder(int)
_NUMBER = msgspec.json.Decoder(float)

_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^,]*)?;base64,(.*)", re.DOTALL)
_ROLES: dict[str, Role] = {"system": "system", "developer": "developer", "user": "user", "assistant": "assistant"}

_EFFORTS: dict[str, Effort] = {effort.value: effort for effort in Effort} | {"max": Effort.XHIGH}

# Fields that a prompt has a place for; all others are extras.
_KNOWN = frozenset(
    {
        "background", "conversation", "include", "input", "instructions", "max_output_tokens", "model",
        "parallel_tool_calls", "previous_response_id", "prompt", "prompt_cache_key", "reasoning", "safety_identifier",
        "store", "stream", "temperature", "text", "tool_choice", "tools", "top_logprobs", "top_p", "user",
    }
)  # fmt: skip

# Values that say no more than leaving the field out does.
_EMPTY = frozenset({b"null", b"{}", b"[]"})
_DEFAULTS = {"truncation": b'"disabled"', "service_tier": b'"auto"'}

# Fields whose presence means that the provider is to remember something, or has remembered it.
_PINNING = ("previous_response_id", "conversation", "prompt")
_PINNING_FLAGS = ("store", "background")

# Records of what the provider's own tools did; the answer that came of them stands beside them as text.
_RECORDS = frozenset(
    {
        "web_search_call", "file_search_call", "code_interpreter_call", "image_generation_call", "mcp_list_tools",
        "tool_search_call",
    }
)  # fmt: skip


def looks_like_responses(members: Container[str]) -> bool:
    """Whether a body with these members is a Responses request, whatever path it came on: Cursor sends such ones."""
    return "input" in members and "messages" not in members


def read_request(body: bytes) -> Prompt:
    """A request body as a prompt. Raises WireError for what is not a Responses request."""
    members = read_members(body)
    read = _Input()
    told = decode(members, "input", _INPUT)
    if told is None and not _pins(members):
        raise WireError("The request has no input.")
    read.take(told or [])
    instructions = decode(members, "instructions", _TEXT)
    include = decode(members, "include", _INCLUDE) or []
    settings = decode(members, "text", _TEXT_SETTINGS) or _TextSettings()
    tools = unique([*read_tools(decode(members, "tools", _TOOLS)), *read.tools])
    choice, tools = read_choice(members, tools)
    return Prompt(
        model=decode(members, "model", _TEXT) or "",
        turns=tuple(Turn(role, tuple(blocks)) for role, blocks in read.turns),
        instructions=(*((Text(instructions),) if instructions else ()), *read.instructions),
        stream=decode(members, "stream", _FLAG) or False,
        tools=tools,
        tool_choice=choice,
        parallel_tools=decode(members, "parallel_tool_calls", _FLAG),
        max_output_tokens=decode(members, "max_output_tokens", _COUNT),
        sampling=Sampling(temperature=decode(members, "temperature", _NUMBER), top_p=decode(members, "top_p", _NUMBER)),
        reasoning=_read_reasoning(decode(members, "reasoning", _EFFORT)),
        format=_read_format(settings.format),
        verbosity=settings.verbosity,
        user=decode(members, "safety_identifier", _TEXT) or decode(members, "user", _TEXT),
        cache_key=decode(members, "prompt_cache_key", _TEXT),
        logprobs=LOGPROBS in include,
        top_logprobs=decode(members, "top_logprobs", _COUNT),
        pins=tuple(dict.fromkeys([*_pins(members), *read.pins])),
        extras=_read_extras(members, include),
        dropped=tuple(read.dropped),
    )


def echo_of(prompt: Prompt, body: bytes) -> Echo:
    """What the writer of the reply has to know of the request. Raises WireError, when the body is not one."""
    members = read_members(body)
    told = {name: _again(members[name]) for name in ECHOED if name in members and is_told(members[name])}
    fields = {name: raw for name, raw in told.items() if raw is not None}
    return Echo(model=prompt.model, tools=tools_by_name(prompt), fields=fields)


def _again(raw: msgspec.Raw) -> msgspec.Raw | None:
    """A copy that does not hold the whole body, and has no line ends, which a stream's data must not have.

    None for what nobody could read, deep inside what is passed on unread otherwise.
    """
    try:
        return msgspec.Raw(msgspec.json.encode(msgspec.json.decode(raw)))
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


def _pins(members: Mapping[str, msgspec.Raw]) -> list[str]:
    pins = [name for name in _PINNING if name in members and is_told(members[name])]
    return pins + [name for name in _PINNING_FLAGS if decode(members, name, _FLAG)]


def _read_extras(members: Mapping[str, msgspec.Raw], include: list[str]) -> dict[str, msgspec.Raw]:
    extras = {
        name: raw
        for name, raw in members.items()
        if name not in _KNOWN and bytes(raw) not in _EMPTY and bytes(raw) != _DEFAULTS.get(name)
    }
    # Sealed thoughts are given to whoever may want them back, asked for or not.
    others = [one for one in include if one not in (LOGPROBS, SEALED_THOUGHTS)]
    if others:
        extras["include"] = msgspec.Raw(msgspec.json.encode(others))
    return extras


class _Input:
    """Reads the items of an input one after the other."""

    def __init__(self) -> None:
        self.instructions: list[Text] = []
        self.turns: list[tuple[Role, list[Block]]] = []
        self.tools: list[Tool | ServerTool] = []
        self.pins: list[str] = []
        self.dropped: dict[str, None] = {}
        self._readers: dict[str, Callable[[msgspec.Raw], None]] = {
            "message": self._message,
            "input_text": self._bare_part,
            "input_image": self._bare_part,
            "input_file": self._bare_part,
            "output_text": self._bare_part,
            "reasoning": self._reasoning,
            "function_call": self._call,
            "custom_tool_call": self._custom_call,
            "function_call_output": self._output,
            "custom_tool_call_output": self._custom_output,
            "additional_tools": self._more_tools,
            "tool_search_output": self._more_tools,
            "item_reference": self._reference,
        }

    def take(self, told: str | list[msgspec.Raw]) -> None:
        """The whole input. Raises WireError."""
        if isinstance(told, str):
            if told:
                self._add("user", [Text(told)])
            return
        for raw in told:
            item = _decode(raw, _KIND)
            kind = item.type or ("message" if item.role is not None else "item_reference")
            reader = self._readers.get(kind)
            if reader is not None:
                reader(raw)
            elif kind in _RECORDS:
                self.dropped[f"input.{kind}"] = None
            else:
                raise CannotCarry(
                    f"The input has an item of the type {kind[:40]}, which only providers of Responses understand.",
                    param="input",
                )

    def _add(self, role: Role, blocks: list[Block]) -> None:
        if role in ("system", "developer") and not self.turns:
            self.instructions += [block for block in blocks if isinstance(block, Text)]
        elif self.turns and self.turns[-1][0] == role:
            self.turns[-1][1].extend(blocks)
        elif blocks:
            self.turns.append((role, blocks))

    def _message(self, raw: msgspec.Raw) -> None:
        message = _decode(raw, _MESSAGE)
        role = _ROLES.get(message.role or "")
        if role is None:
            raise WireError("The input has a message whose role Responses does not know.")
        if message.phase is not None:
            self.dropped["input.phase"] = None
        self._add(role, self._content(message.content))

    def _bare_part(self, raw: msgspec.Raw) -> None:
        part = _decode(raw, _PART)
        self._add("assistant" if part.type == "output_text" else "user", [self._part(part)])

    def _reasoning(self, raw: msgspec.Raw) -> None:
        item = _decode(raw, _REASONING)
        text = "".join(one.text for one in item.content or ())
        summary = tuple(one.text for one in item.summary or ())
        seal = seals.opened(item.encrypted_content)
        if seal.signature is not None or seal.redacted is not None:
            # Thoughts that were lent to this dialect: one text, in whichever place it was shown.
            thought = Thinking(text or "".join(summary), signature=seal.signature, redacted=seal.redacted)
        else:
            thought = Thinking(text, encrypted=item.encrypted_content, summary=summary, id=item.id)
        self._add("assistant", [thought])

    def _call(self, raw: msgspec.Raw) -> None:
        call = _decode(raw, _CALL)
        arguments = call.arguments
        if not isinstance(arguments, str):
            arguments = "" if arguments is None else msgspec.json.encode(arguments).decode()
        self._add("assistant", [ToolCall(call.call_id or call.id or "", flat(call.name, call.namespace), arguments)])

    def _custom_call(self, raw: msgspec.Raw) -> None:
        call = _decode(raw, _CALL)
        name = flat(call.name, call.namespace)
        self._add("assistant", [ToolCall(call.call_id or call.id or "", name, call.input or "", custom=True)])

    def _output(self, raw: msgspec.Raw, *, custom: bool = False) -> None:
        output = _decode(raw, _OUTPUT)
        blocks = self._content(output.output)
        content = tuple(block for block in blocks if isinstance(block, Text | Image | Document))
        self._add("user", [ToolResult(output.call_id or "", content, custom=custom)])

    def _custom_output(self, raw: msgspec.Raw) -> None:
        self._output(raw, custom=True)

    def _more_tools(self, raw: msgspec.Raw) -> None:
        self.tools += read_tools(_decode(raw, _TOOLS_ITEM).tools)

    def _reference(self, raw: msgspec.Raw) -> None:
        self.pins.append("item_reference")

    def _content(self, content: str | list[_Part | str] | None) -> list[Block]:
        if isinstance(content, str):
            return [Text(content)] if content else []
        return [Text(part) if isinstance(part, str) else self._part(part) for part in content or ()]

    def _part(self, part: _Part) -> Block:
        cache = None if part.prompt_cache_breakpoint is None else CacheMark()
        if part.file_id is not None:
            self.pins.append("file_id")
        match part.type:
            case "input_text" | "output_text" | "text":
                return Text(part.text or "", cache)
            case "refusal":
                return Refused(part.refusal or "")
            case "input_image":
                data = _DATA_URL.fullmatch(part.image_url or "")
                if data:
                    return Image(data=data[2], media_type=data[1] or None, detail=part.detail, cache=cache)
                return Image(url=part.image_url, detail=part.detail, cache=cache)
            case "input_file":
                data = _DATA_URL.fullmatch(part.file_data or "")
                encoded, media_type = (data[2], data[1] or None) if data else (part.file_data, None)
                return Document(url=part.file_url, data=encoded, media_type=media_type, name=part.filename, cache=cache)
        raise CannotCarry(
            f"The input has content of the type {part.type[:40]}, which cannot be translated.", param="input"
        )


def _decode(raw: msgspec.Raw, decoder: msgspec.json.Decoder[Value]) -> Value:
    value = decode({"input": raw}, "input", decoder)
    if value is None:
        raise WireError("The input has null in the place of an item.")
    return value


def _told(raw: msgspec.Raw) -> msgspec.Raw | None:
    return raw if is_told(raw) else None


def _read_reasoning(told: _Effort | None) -> Reasoning | None:
    if told is None:
        return None
    effort = _EFFORTS.get(told.effort or "")
    summary = told.summary or told.generate_summary
    if effort is None and summary is None:
        return None
    return Reasoning(enabled=effort is not Effort.NONE, effort=effort, summary=summary)


def _read_format(told: _Format | None) -> Format | None:
    if told is None or told.type == "text":
        return None
    if told.type != "json_schema":
        return Format()
    return Format(_told(told.schema), told.name, told.description, told.strict)
