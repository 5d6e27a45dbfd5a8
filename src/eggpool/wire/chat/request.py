"""Chat Completions requests, read into a `Prompt` and written from one.

Source: the OpenAI API reference, "Create chat completion"; for `reasoning_content` the pages of DeepSeek and Moonshot,
for `cache_control` on parts that of OpenRouter.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import msgspec

from eggpool.errors import WireError
from eggpool.wire import bridge
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
    ToolChoice,
    ToolResult,
    Turn,
    Written,
    refuse_forced,
    tools_by_name,
)
from eggpool.wire.reasoning import effort_of

Json = dict[str, object]


class _Function(msgspec.Struct):
    name: str = ""
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class _Custom(msgspec.Struct):
    name: str = ""
    description: str | None = None
    format: msgspec.Raw = msgspec.Raw()


class _Tool(msgspec.Struct):
    type: str = "function"
    function: _Function | None = None
    custom: _Custom | None = None
    cache_control: Json | None = None


class _CalledFunction(msgspec.Struct):
    name: str = ""
    arguments: str | Json | None = None


class _CalledCustom(msgspec.Struct):
    name: str = ""
    input: str = ""


class _Call(msgspec.Struct):
    id: str | None = None
    type: str | None = None
    function: _CalledFunction | None = None
    custom: _CalledCustom | None = None


class _Address(msgspec.Struct):
    url: str = ""
    detail: str | None = None


class _File(msgspec.Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class _Part(msgspec.Struct):
    type: str = "text"
    text: str | None = None
    refusal: str | None = None
    image_url: _Address | str | None = None
    file: _File | None = None
    cache_control: Json | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part | str] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None
    tool_call_id: str | None = None
    function_call: _CalledFunction | None = None
    name: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _JsonSchema(msgspec.Struct):
    name: str | None = None
    description: str | None = None
    schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None


class _ResponseFormat(msgspec.Struct):
    type: str = "text"
    json_schema: _JsonSchema | None = None


class _NamedTool(msgspec.Struct):
    name: str = ""


class _Choice(msgspec.Struct):
    type: str = ""
    function: _NamedTool | None = None
    custom: _NamedTool | None = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


_MESSAGES = msgspec.json.Decoder(list[_Message])
_TOOLS = msgspec.json.Decoder(list[msgspec.Raw])
_TOOL = msgspec.json.Decoder(_Tool)
_CHOICE = msgspec.json.Decoder(str | _Choice)
_FORMAT = msgspec.json.Decoder(_ResponseFormat)
_STOP = msgspec.json.Decoder(str | list[str])
_OPTIONS = msgspec.json.Decoder(_StreamOptions)
_TEXT = msgspec.json.Decoder(str)
_FLAG = msgspec.json.Decoder(bool)
_COUNT = msgspec.json.Decoder(int)
_NUMBER = msgspec.json.Decoder(float)

_DATA_URL = re.compile(r"data:([^;,]*)(?:;[^,]*)?;base64,(.*)", re.DOTALL)
_MAX_USER_CHARS = 64  # of `user`; OpenAI refuses longer ones
_ROLES: dict[str, Role] = {"system": "system", "developer": "developer", "user": "user", "assistant": "assistant"}
_MODES = {"auto": "auto", "none": "none", "required": "required", "any": "required"}

# Fields that a prompt has a place for; all others are extras.
_KNOWN = frozenset(
    {
        "frequency_penalty", "logprobs", "max_completion_tokens", "max_tokens", "messages", "model", "n",
        "parallel_tool_calls", "presence_penalty", "prompt_cache_key", "reasoning_effort", "response_format", "seed",
        "stop", "stream", "stream_options", "temperature", "tool_choice", "tools", "top_k", "top_logprobs", "top_p",
        "user", "verbosity",
    }
)  # fmt: skip


def read_request(body: bytes) -> Prompt:
    """A request body as a prompt. Raises WireError for what is not a Chat Completions request."""
    members = read_members(body)
    messages = decode(members, "messages", _MESSAGES)
    if messages is None:
        raise WireError("The request has no messages.")
    instructions, turns, pins = _read_messages(messages)
    stop = decode(members, "stop", _STOP)
    options = decode(members, "stream_options", _OPTIONS)
    effort = decode(members, "reasoning_effort", _TEXT)
    limit = decode(members, "max_completion_tokens", _COUNT)
    top_logprobs = decode(members, "top_logprobs", _COUNT)
    if decode(members, "store", _FLAG):
        pins = (*pins, "store")
    return Prompt(
        model=decode(members, "model", _TEXT) or "",
        turns=turns,
        instructions=instructions,
        stream=decode(members, "stream", _FLAG) or False,
        include_usage=bool(options and options.include_usage),
        tools=tuple(_read_tool(raw) for raw in decode(members, "tools", _TOOLS) or ()),
        tool_choice=_read_choice(decode(members, "tool_choice", _CHOICE)),
        parallel_tools=decode(members, "parallel_tool_calls", _FLAG),
        max_output_tokens=limit if limit is not None else decode(members, "max_tokens", _COUNT),
        sampling=Sampling(
            temperature=decode(members, "temperature", _NUMBER),
            top_p=decode(members, "top_p", _NUMBER),
            top_k=decode(members, "top_k", _COUNT),
            frequency_penalty=decode(members, "frequency_penalty", _NUMBER),
            presence_penalty=decode(members, "presence_penalty", _NUMBER),
            seed=decode(members, "seed", _COUNT),
            stop=(stop,) if isinstance(stop, str) else tuple(stop or ()),
        ),
        reasoning=None if effort is None else _read_effort(effort),
        format=_read_format(decode(members, "response_format", _FORMAT)),
        verbosity=decode(members, "verbosity", _TEXT),
        user=decode(members, "user", _TEXT),
        cache_key=decode(members, "prompt_cache_key", _TEXT),
        choices=decode(members, "n", _COUNT) or 1,
        logprobs=decode(members, "logprobs", _FLAG) or False,
        top_logprobs=top_logprobs,
        pins=pins,
        extras={name: raw for name, raw in members.items() if name not in _KNOWN and is_told(raw)},
    )


def write_request(prompt: Prompt, *, output_limit: int | None = None) -> Written:
    """A prompt as a Chat Completions request. Raises CannotCarry. `output_limit` is not needed here."""
    if prompt.pins:
        raise CannotCarry(
            f"{prompt.pins[0]} refers to what only the provider that made it knows; send the whole conversation.",
            param=prompt.pins[0],
        )
    lost = [f"tools.{tool.type}" for tool in prompt.tools if isinstance(tool, ServerTool)]
    lost += [*prompt.extras, *prompt.dropped]
    payload: Json = {"model": prompt.model}
    payload["messages"] = _Messages(lost).write(prompt)
    tools = [_write_tool(tool) for tool in prompt.tools if isinstance(tool, Tool)]
    if tools:
        payload["tools"] = tools
        if prompt.parallel_tools is not None:
            payload["parallel_tool_calls"] = prompt.parallel_tools
    else:
        refuse_forced(prompt)
    if prompt.tool_choice is not None and (tools or prompt.tool_choice.server):
        payload["tool_choice"] = _write_choice(prompt.tool_choice)
    if prompt.max_output_tokens is not None:
        payload["max_tokens"] = prompt.max_output_tokens
    _write_sampling(payload, prompt.sampling, lost)
    if prompt.reasoning is not None:
        effort = effort_of(prompt.reasoning)
        if effort is not None:
            payload["reasoning_effort"] = effort
        if prompt.reasoning.summary is not None:
            lost.append("reasoning.summary")
    if prompt.format is not None:
        payload["response_format"] = _write_format(prompt.format)
    user = prompt.user if prompt.user is not None and len(prompt.user) <= _MAX_USER_CHARS else None
    if user != prompt.user:
        lost.append("user")
    for name, value in (("verbosity", prompt.verbosity), ("user", user), ("prompt_cache_key", prompt.cache_key)):
        if value is not None:
            payload[name] = value
    if prompt.choices > 1:
        payload["n"] = prompt.choices
    if prompt.logprobs:
        payload["logprobs"] = True
    if prompt.top_logprobs is not None:
        payload["top_logprobs"] = prompt.top_logprobs
    if prompt.stream:
        payload["stream"] = True
        payload["stream_options"] = {"include_usage": True}
    return Written(msgspec.json.encode(payload), tuple(dict.fromkeys(lost)))


def echo_of(prompt: Prompt, body: bytes) -> Echo:
    """What the writer of the reply has to know of the request."""
    return Echo(model=prompt.model, include_usage=prompt.include_usage, tools=tools_by_name(prompt))


# --- reading --------------------------------------------------------------------------------------------------------


def _read_messages(messages: list[_Message]) -> tuple[tuple[Text, ...], tuple[Turn, ...], tuple[str, ...]]:
    """The instructions before the first turn, the turns, and what refers to a provider's own memory."""
    instructions: list[Text] = []
    turns: list[tuple[Role, list[Block]]] = []
    pins: list[str] = []
    custom: set[str] = set()
    for message in messages:
        role, blocks = _read_message(message, pins, custom)
        if role in ("system", "developer") and not turns:
            instructions += [block for block in blocks if isinstance(block, Text)]
        elif turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return tuple(instructions), tuple(Turn(role, tuple(blocks)) for role, blocks in turns), tuple(pins)


def _read_message(message: _Message, pins: list[str], custom: set[str]) -> tuple[Role, list[Block]]:
    blocks = _read_content(message.content, pins)
    if message.role in ("tool", "function"):
        content = tuple(block for block in blocks if isinstance(block, Text | Image | Document))
        call_id = message.tool_call_id or message.name or ""
        return "user", [ToolResult(call_id, content, custom=call_id in custom)]
    role = _ROLES.get(message.role)
    if role is None:
        raise WireError("The request has a message whose role Chat Completions does not know.")
    if role != "assistant":
        return role, blocks
    thoughts = message.reasoning_content or message.reasoning
    if thoughts:
        blocks.insert(0, Thinking(text=thoughts))
    if message.refusal:
        blocks.append(Refused(message.refusal))
    for call in message.tool_calls or ():
        if call.custom is not None:
            custom.add(call.id or "")
            blocks.append(ToolCall(call.id or "", call.custom.name, call.custom.input, custom=True))
        elif call.function is not None:
            blocks.append(_read_call(call.id or "", call.function))
    if message.function_call is not None:
        blocks.append(_read_call(message.function_call.name, message.function_call))
    return role, blocks


def _read_call(call_id: str, function: _CalledFunction) -> ToolCall:
    arguments = function.arguments
    if not isinstance(arguments, str):
        arguments = "" if arguments is None else msgspec.json.encode(arguments).decode()
    return ToolCall(call_id, function.name, arguments)


def _read_content(content: str | list[_Part | str] | None, pins: list[str]) -> list[Block]:
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [_read_part(part, pins) for part in content or ()]


def _read_part(part: _Part | str, pins: list[str]) -> Block:
    if isinstance(part, str):
        return Text(part)
    cache = _read_mark(part.cache_control)
    if part.type in ("text", "input_text", "output_text"):
        return Text(part.text or "", cache)
    if part.type == "refusal":
        return Refused(part.refusal or "")
    if part.type == "image_url" and part.image_url is not None:
        address = _Address(part.image_url) if isinstance(part.image_url, str) else part.image_url
        data = _DATA_URL.fullmatch(address.url)
        if data:
            return Image(data=data[2], media_type=data[1] or None, detail=address.detail, cache=cache)
        return Image(url=address.url, detail=address.detail, cache=cache)
    if part.type == "file" and part.file is not None:
        if part.file.file_id is not None:
            pins.append("file_id")
        data = _DATA_URL.fullmatch(part.file.file_data or "")
        if data:
            return Document(data=data[2], media_type=data[1] or None, name=part.file.filename, cache=cache)
        return Document(data=part.file.file_data, name=part.file.filename, cache=cache)
    raise CannotCarry(
        f"A message has content of the type {part.type[:40]}, which cannot be translated.", param="messages"
    )


def _read_mark(mark: Mapping[str, object] | None) -> CacheMark | None:
    if mark is None:
        return None
    ttl = mark.get("ttl")
    return CacheMark(ttl if isinstance(ttl, str) else None)


def _read_tool(raw: msgspec.Raw) -> Tool | ServerTool:
    tool = decode({"tools": raw}, "tools", _TOOL) or _Tool()
    if tool.type == "function" and tool.function is not None:
        found = tool.function
        return Tool(
            name=found.name,
            description=found.description,
            parameters=found.parameters if is_told(found.parameters) else None,
            strict=found.strict,
            cache=_read_mark(tool.cache_control),
        )
    if tool.type == "custom" and tool.custom is not None:
        grammar = tool.custom.format if is_told(tool.custom.format) else None
        return Tool(tool.custom.name, tool.custom.description, custom=True, format=grammar)
    return ServerTool(tool.type, raw)


def _read_choice(choice: str | _Choice | None) -> ToolChoice | None:
    if choice is None:
        return None
    if isinstance(choice, str):
        mode = _MODES.get(choice)
        if mode is None:
            raise WireError("The field tool_choice is none of auto, none, required, or a tool.")
        return ToolChoice(mode)  # type: ignore[arg-type]
    named = choice.function or choice.custom
    if named is None:
        return ToolChoice("named", choice.type, server=True)
    return ToolChoice("named", named.name)


def _read_effort(effort: str) -> Reasoning | None:
    try:
        known = Effort(effort)
    except ValueError:
        return None
    return Reasoning(enabled=known is not Effort.NONE, effort=known)


def _read_format(told: _ResponseFormat | None) -> Format | None:
    if told is None or told.type == "text":
        return None
    schema = told.json_schema
    if told.type != "json_schema" or schema is None:
        return Format()
    return Format(schema.schema if is_told(schema.schema) else None, schema.name, schema.description, schema.strict)


# --- writing --------------------------------------------------------------------------------------------------------


def _is_sealed(thinking: Thinking) -> bool:
    """Whether somebody's seal is on it: then it was no provider of this dialect that thought so."""
    return (thinking.signature or thinking.redacted or thinking.encrypted) is not None


def _thoughts(thinking: Thinking) -> str:
    return thinking.text or "".join(thinking.summary)


class _Messages:
    """Writes the messages of one prompt, and notes what is lost."""

    def __init__(self, lost: list[str]) -> None:
        self._lost = lost
        self._messages: list[Json] = []

    def write(self, prompt: Prompt) -> list[Json]:
        """All messages, the instructions first."""
        if prompt.instructions:
            self._add("system", self._texts(prompt.instructions))
        for turn in prompt.turns:
            if turn.role == "assistant":
                self._assistant(turn.blocks)
            elif turn.role == "user":
                self._user(turn.blocks)
            else:
                texts = [block for block in turn.blocks if isinstance(block, Text)]
                self._add("system", self._texts(texts))
        return self._messages

    def _add(self, role: str, content: object, **more: object) -> None:
        self._messages.append({"role": role, "content": content, **more})

    def _texts(self, texts: Iterable[Text]) -> str:
        found = list(texts)
        self._note_marks(found)
        return "\n\n".join(text.text for text in found)

    def _assistant(self, blocks: tuple[Block, ...]) -> None:
        self._note_marks(blocks)
        calls = [_write_call(block) for block in blocks if isinstance(block, ToolCall)]
        texts = [block.text for block in blocks if isinstance(block, Text)]
        refusals = [block.text for block in blocks if isinstance(block, Refused)]
        more: Json = {}
        if calls:
            more["tool_calls"] = calls
        if refusals:
            more["refusal"] = "".join(refusals)
        if any(isinstance(block, Thinking) and _is_sealed(block) for block in blocks):
            self._lost.append("thinking")
        thoughts = [_thoughts(block) for block in blocks if isinstance(block, Thinking) and not _is_sealed(block)]
        if calls and any(thoughts):
            # Only beside calls: in a turn without any, models that do not want to be reminded refuse it.
            more["reasoning_content"] = "".join(thoughts)
        if texts or more:
            self._add("assistant", "".join(texts) if texts else None, **more)

    def _user(self, blocks: tuple[Block, ...]) -> None:
        """Results of tools follow the calls at once, so they come first; what they cannot hold comes behind them."""
        self._note_marks(blocks)
        beside: list[Block] = []
        for block in blocks:
            if isinstance(block, ToolResult):
                texts = [one.text for one in block.content if isinstance(one, Text)]
                beside += [one for one in block.content if not isinstance(one, Text)]
                self._add("tool", "\n".join(texts), tool_call_id=block.call_id)
                if block.failed:
                    self._lost.append("is_error")
        beside += [block for block in blocks if not isinstance(block, ToolResult)]
        if not beside:
            return
        if all(isinstance(block, Text) for block in beside) and len(beside) == 1:
            self._add("user", beside[0].text)  # type: ignore[union-attr]
            return
        self._add("user", [_write_part(block) for block in beside])

    def _note_marks(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            if not isinstance(block, Thinking | Refused) and block.cache is not None:
                self._lost.append("cache_control")


def _write_call(call: ToolCall) -> Json:
    arguments = bridge.wrap(call.arguments) if call.custom else call.arguments or "{}"
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def _write_part(block: Block) -> Json:
    match block:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Image():
            url = block.url if block.url is not None else f"data:{block.media_type or 'image/png'};base64,{block.data}"
            image: Json = {"url": url}
            if block.detail is not None:
                image["detail"] = block.detail
            return {"type": "image_url", "image_url": image}
        case Document(text=str(text)):
            return {"type": "text", "text": text}
        case Document(data=str(data)):
            file: Json = {"file_data": f"data:{block.media_type or 'application/pdf'};base64,{data}"}
            file["filename"] = block.name or "document.pdf"
            return {"type": "file", "file": file}
        case Document():
            raise CannotCarry("A document by URL cannot be sent to a Chat Completions endpoint.", param="messages")
        case _:
            raise CannotCarry("A user's turn holds what only a model can say.", param="messages")


def _write_tool(tool: Tool) -> Json:
    tool = bridge.as_function(tool) if tool.custom else tool
    function: Json = {"name": tool.flat_name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _write_choice(choice: ToolChoice) -> object:
    if choice.server:
        raise CannotCarry(
            f"The tool {choice.name} is run by providers of another dialect only; leave it out or do not force it.",
            param="tool_choice",
        )
    if choice.mode == "named":
        return {"type": "function", "function": {"name": choice.name}}
    return choice.mode


def _write_sampling(payload: Json, sampling: Sampling, lost: list[str]) -> None:
    for name in ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed"):
        value = getattr(sampling, name)
        if value is not None:
            payload[name] = value
    if sampling.stop:
        payload["stop"] = list(sampling.stop)
    if sampling.top_k is not None:
        lost.append("top_k")


def _write_format(wanted: Format) -> Json:
    if wanted.schema is None:
        return {"type": "json_object"}
    schema: Json = {"name": wanted.name or "answer", "schema": wanted.schema}
    if wanted.description is not None:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return {"type": "json_schema", "json_schema": schema}
