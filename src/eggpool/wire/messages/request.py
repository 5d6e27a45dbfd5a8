"""Messages requests, read into a `Prompt` and written from one.

Source: the Anthropic API reference, "Create a Message", "Tool use", "Structured outputs", "Prompt caching".
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated

import msgspec

from eggpool.errors import WireError
from eggpool.wire import bridge
from eggpool.wire.members import decode, is_told, read_members
from eggpool.wire.messages.abilities import READ_EFFORTS, write_sampling, write_thinking
from eggpool.wire.messages.content import (
    ContentReader,
    Item,
    Mark,
    read_mark,
    write_content,
    write_mark,
    write_text,
)
from eggpool.wire.prompt import (
    Block,
    CannotCarry,
    Echo,
    Format,
    Prompt,
    Reasoning,
    Role,
    Sampling,
    ServerTool,
    Text,
    Tool,
    ToolChoice,
    Turn,
    Written,
    refuse_forced,
    tools_by_name,
)

Json = dict[str, object]

DEFAULT_MAX_TOKENS = 32_000
"""The output limit, which this dialect demands, where neither client nor model list tells one.

It is what Claude Code asks of every model, so whoever serves this dialect takes it.
"""

_MAX_USER_CHARS = 256  # of `metadata.user_id`

_OPENING = "(The conversation begins with your own words.)"
"""What stands before an answer that nothing stands before, because the first turn must be the user's."""


class _Message(msgspec.Struct):
    role: str
    content: str | list[Item] | None = None


class _Tool(msgspec.Struct):
    name: str = ""
    type: str | None = None
    description: str | None = None
    input_schema: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    cache_control: Mark | None = None
    defer_loading: bool | None = None
    input_examples: list[msgspec.Raw] | None = None
    allowed_callers: list[str] | None = None


class _Choice(msgspec.Struct):
    type: str
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]


class _Thinking(msgspec.Struct):
    type: str
    budget_tokens: _Count | None = None
    display: str | None = None


class _Format(msgspec.Struct):
    type: str
    schema: msgspec.Raw = msgspec.Raw()


class _OutputConfig(msgspec.Struct):
    effort: str | None = None
    format: _Format | None = None
    task_budget: msgspec.Raw = msgspec.Raw()


class _Metadata(msgspec.Struct):
    user_id: str | None = None


_MESSAGES = msgspec.json.Decoder(list[_Message])
_SYSTEM = msgspec.json.Decoder(str | list[Item])
_TOOLS = msgspec.json.Decoder(list[msgspec.Raw])
_TOOL = msgspec.json.Decoder(_Tool)
_CHOICE = msgspec.json.Decoder(_Choice)
_THINKING = msgspec.json.Decoder(_Thinking)
_OUTPUT_CONFIG = msgspec.json.Decoder(_OutputConfig)
_OUTPUT_FORMAT = msgspec.json.Decoder(_Format)
_METADATA = msgspec.json.Decoder(_Metadata)
_OBJECT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TEXT = msgspec.json.Decoder(str)
_TEXTS = msgspec.json.Decoder(list[str])
_FLAG = msgspec.json.Decoder(bool)
_COUNT = msgspec.json.Decoder(_Count)
_NUMBER = msgspec.json.Decoder(float)

_ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system"}

# Fields that a prompt has a place for; all others are extras.
_KNOWN = frozenset(
    {
        "max_tokens", "messages", "metadata", "model", "output_config", "output_format", "stop_sequences", "stream",
        "system", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p",
    }
)  # fmt: skip

# Extras that are this dialect's own, and so can be said in it again.
_OWN_EXTRAS = frozenset(
    {
        "cache_control", "context_management", "diagnostics", "fallbacks", "inference_geo", "mcp_servers", "speed",
        "user_profile_id",
    }
)  # fmt: skip

_CHOICES = {"auto": "auto", "none": "none", "required": "any", "named": "tool"}

_OWN_SERVER_TOOL = re.compile(r"[a-z0-9_]+_20\d{6}|mcp_toolset")
"""The types of tools with which Anthropic's API does something itself carry a date; nobody else's do."""


def read_request(body: bytes) -> Prompt:
    """A request body as a prompt. Raises WireError for what is not a Messages request."""
    members = read_members(body)
    messages = decode(members, "messages", _MESSAGES)
    if messages is None:
        raise WireError("The request has no messages.")
    content = ContentReader()
    instructions = content.texts(decode(members, "system", _SYSTEM) or "")
    turns = _read_turns(messages, content, instructions)
    tools = tuple(_read_tool(raw, content.dropped) for raw in decode(members, "tools", _TOOLS) or ())
    choice = decode(members, "tool_choice", _CHOICE)
    output = decode(members, "output_config", _OUTPUT_CONFIG) or _OutputConfig()
    if is_told(output.task_budget):
        content.dropped.append("output_config.task_budget")
    metadata = decode(members, "metadata", _METADATA)
    stops = decode(members, "stop_sequences", _TEXTS)
    if "container" in members and is_told(members["container"]):
        content.pins.append("container")
    parallel = None if choice is None or choice.disable_parallel_tool_use is None else choice.disable_parallel_tool_use
    return Prompt(
        model=decode(members, "model", _TEXT) or "",
        turns=turns,
        instructions=tuple(instructions),
        stream=decode(members, "stream", _FLAG) or False,
        tools=tools,
        tool_choice=None if choice is None else _read_choice(choice, tools),
        parallel_tools=None if parallel is None else not parallel,
        max_output_tokens=decode(members, "max_tokens", _COUNT),
        sampling=Sampling(
            temperature=decode(members, "temperature", _NUMBER),
            top_p=decode(members, "top_p", _NUMBER),
            top_k=decode(members, "top_k", _COUNT),
            stop=tuple(stops or ()),
        ),
        reasoning=_read_reasoning(decode(members, "thinking", _THINKING), output.effort, content.dropped),
        format=_read_format(output.format or decode(members, "output_format", _OUTPUT_FORMAT)),
        user=None if metadata is None else metadata.user_id,
        pins=tuple(dict.fromkeys(content.pins)),
        extras={
            name: raw for name, raw in members.items() if name not in _KNOWN and name != "container" and is_told(raw)
        },
        dropped=tuple(dict.fromkeys(content.dropped)),
    )


def write_request(prompt: Prompt, *, output_limit: int | None = None) -> Written:
    """A prompt as a Messages request. Raises CannotCarry.

    `output_limit` is the model's known maximum of output tokens, which stands for a limit that the client did not set.
    """
    if prompt.pins:
        raise CannotCarry(
            f"{prompt.pins[0]} refers to what only the provider that made it knows; send the whole conversation.",
            param=prompt.pins[0],
        )
    if prompt.choices > 1:
        raise CannotCarry("A Messages endpoint gives one answer; ask n times for n answers.", param="n")
    lost = list(prompt.dropped)
    limit = prompt.max_output_tokens or output_limit or DEFAULT_MAX_TOKENS
    payload: Json = {"model": prompt.model, "max_tokens": limit}
    messages = _write_turns(prompt, lost)
    system = [block for text in prompt.instructions if (block := write_text(text)) is not None]
    if not messages and system:
        messages, system = [{"role": "user", "content": system}], []
    if system:
        payload["system"] = _plain(system)
    payload["messages"] = messages
    tools = [tool for tool in (_write_tool(tool, lost) for tool in prompt.tools) if tool is not None]
    if tools:
        payload["tools"] = tools
    else:
        refuse_forced(prompt)
    choice = _write_choice(prompt, offered=bool(tools))
    if choice is not None:
        payload["tool_choice"] = choice
    thinking, effort = write_thinking(prompt, limit, lost)
    if thinking is not None:
        payload["thinking"] = thinking
    thinks = thinking is not None and thinking["type"] != "disabled"
    payload |= write_sampling(prompt, thinks=thinks, lost=lost)
    output = _write_output(prompt, effort, lost)
    if output:
        payload["output_config"] = output
    if prompt.user is not None and len(prompt.user) <= _MAX_USER_CHARS:
        payload["metadata"] = {"user_id": prompt.user}
    for name, told in (
        ("user", len(prompt.user or "") > _MAX_USER_CHARS),
        ("verbosity", prompt.verbosity is not None),
        ("prompt_cache_key", prompt.cache_key is not None),
        ("logprobs", prompt.logprobs),
        ("top_logprobs", prompt.top_logprobs is not None),
    ):
        if told:
            lost.append(name)
    for name, raw in prompt.extras.items():
        if name in _OWN_EXTRAS:
            payload[name] = raw
        else:
            lost.append(name)
    if prompt.stream:
        payload["stream"] = True
    return Written(_encode(payload), tuple(dict.fromkeys(lost)))


def echo_of(prompt: Prompt, body: bytes) -> Echo:
    """What the writer of the reply has to know of the request."""
    return Echo(model=prompt.model, tools=tools_by_name(prompt))


# --- reading --------------------------------------------------------------------------------------------------------


def _read_turns(messages: list[_Message], content: ContentReader, instructions: list[Text]) -> tuple[Turn, ...]:
    """The turns; a system message before the first of them is one more instruction."""
    turns: list[tuple[Role, list[Block]]] = []
    for message in messages:
        role = _ROLES.get(message.role)
        if role is None:
            raise WireError("The request has a message whose role Messages does not know.")
        told = message.content or ""
        if role == "system":
            texts = content.texts(told)
            if not turns:
                instructions += texts
                continue
            blocks: list[Block] = [*texts]
        else:
            blocks = content.read(told)
        if not blocks:
            continue
        if turns and turns[-1][0] == role:
            turns[-1][1].extend(blocks)
        else:
            turns.append((role, blocks))
    return tuple(Turn(role, tuple(blocks)) for role, blocks in turns)


def _read_tool(raw: msgspec.Raw, dropped: list[str]) -> Tool | ServerTool:
    tool = decode({"tools": raw}, "tools", _TOOL)
    if tool is None:
        raise WireError("The request has a tool that is not an object.")
    if tool.type not in (None, "custom"):
        return ServerTool(tool.type or "", raw)
    for name in ("defer_loading", "input_examples", "allowed_callers"):
        if getattr(tool, name):
            dropped.append(f"tools.{name}")
    return Tool(
        name=tool.name,
        description=tool.description,
        parameters=tool.input_schema if is_told(tool.input_schema) else None,
        strict=tool.strict,
        cache=read_mark(tool.cache_control),
    )


def _read_choice(choice: _Choice, tools: Iterable[Tool | ServerTool]) -> ToolChoice:
    match choice.type:
        case "auto":
            return ToolChoice("auto")
        case "none":
            return ToolChoice("none")
        case "any":
            return ToolChoice("required")
        case "tool":
            for tool in tools:
                if isinstance(tool, ServerTool) and _name_of(tool) == choice.name:
                    return ToolChoice("named", tool.type, server=True)
            return ToolChoice("named", choice.name or "")
        case _:
            raise WireError("The field tool_choice has a type that Messages does not know.")


def _name_of(tool: ServerTool) -> str | None:
    return decode(_OBJECT.decode(tool.raw), "name", _TEXT)


def _read_reasoning(thinking: _Thinking | None, word: str | None, dropped: list[str]) -> Reasoning | None:
    if word is not None and word not in READ_EFFORTS:
        dropped.append("output_config.effort")
    effort = None if word is None else READ_EFFORTS.get(word)
    if thinking is None:
        return None if effort is None else Reasoning(effort=effort)
    if thinking.type == "disabled":
        return Reasoning(enabled=False, effort=effort)
    summary = "auto" if thinking.display == "summarized" else None
    if thinking.type == "enabled":
        return Reasoning(effort=effort, budget_tokens=thinking.budget_tokens, summary=summary)
    # What newer models are told leaves more to them, never less.
    return Reasoning(effort=effort, adaptive=True, summary=summary)


def _read_format(told: _Format | None) -> Format | None:
    if told is None or told.type != "json_schema":
        return None
    return Format(told.schema if is_told(told.schema) else None, strict=True)


# --- writing --------------------------------------------------------------------------------------------------------


def _write_turns(prompt: Prompt, lost: list[str]) -> list[Json]:
    """The messages: sides take turns, the user begins, and results of tools stand at the beginning of their turn."""
    merged: list[tuple[str, list[Json]]] = []
    for turn in prompt.turns:
        role = "assistant" if turn.role == "assistant" else "user"
        blocks = turn.blocks if turn.role in ("assistant", "user") else tuple(map(_as_system, turn.blocks))
        written = write_content(blocks, role, lost)
        if not written:
            continue
        if merged and merged[-1][0] == role:
            merged[-1][1].extend(written)
        else:
            merged.append((role, written))
    if merged and merged[0][0] == "assistant":
        merged.insert(0, ("user", [{"type": "text", "text": _OPENING}]))
    if merged and merged[-1][0] == "assistant":
        _strip_end(merged[-1][1])
    return [{"role": role, "content": _plain(sorted(blocks, key=_is_no_result))} for role, blocks in merged]


def _as_system(block: Block) -> Block:
    """What the operator said in the middle of a conversation, marked as that in the user's turn."""
    return Text(f"<system>\n{block.text}\n</system>", block.cache) if isinstance(block, Text) else block


def _is_no_result(block: Json) -> bool:
    return block["type"] != "tool_result"


def _strip_end(blocks: list[Json]) -> None:
    """An answer that the model shall go on with must not end with blanks."""
    text = blocks[-1].get("text")
    if isinstance(text, str):
        blocks[-1]["text"] = text.rstrip()


def _plain(blocks: list[Json]) -> object:
    """One text without a mark stands by itself."""
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0].keys() == {"type", "text"} else blocks


def _write_tool(tool: Tool | ServerTool, lost: list[str]) -> object:
    if isinstance(tool, ServerTool):
        if _OWN_SERVER_TOOL.fullmatch(tool.type):
            return tool.raw
        lost.append(f"tools.{tool.type}")
        return None
    if tool.custom:
        tool = bridge.as_function(tool)
    payload: Json = {"name": tool.flat_name}
    if tool.description is not None:
        payload["description"] = tool.description
    payload["input_schema"] = _write_schema(tool)
    if tool.strict is not None:
        payload["strict"] = tool.strict
    return write_mark(payload, tool.cache)


def _write_schema(tool: Tool) -> object:
    """The tool's parameters; the dialect wants to read at once that they are an object."""
    if tool.parameters is None or bytes(tool.parameters) == b"null":
        return {"type": "object", "properties": {}}
    try:
        schema = _OBJECT.decode(tool.parameters)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise CannotCarry(
            f"The parameters of the tool {tool.name[:64]} are not a JSON schema.", param="tools"
        ) from None
    return tool.parameters if "type" in schema else {"type": "object", **schema}


def _write_choice(prompt: Prompt, *, offered: bool) -> Json | None:
    choice = prompt.tool_choice
    if choice is not None and choice.server:
        return _write_forced_server_tool(prompt, choice)
    if choice is None or not offered:
        return (
            {"type": "auto", "disable_parallel_tool_use": True} if offered and prompt.parallel_tools is False else None
        )
    payload: Json = {"type": _CHOICES[choice.mode]}
    if choice.mode == "none":
        return payload
    if choice.mode == "named":
        payload["name"] = choice.name
    if prompt.parallel_tools is not None:
        payload["disable_parallel_tool_use"] = not prompt.parallel_tools
    return payload


def _write_forced_server_tool(prompt: Prompt, choice: ToolChoice) -> Json:
    for tool in prompt.tools:
        if isinstance(tool, ServerTool) and tool.type == choice.name and _OWN_SERVER_TOOL.fullmatch(tool.type):
            return {"type": "tool", "name": _name_of(tool)}
    raise CannotCarry(
        f"The tool {choice.name} is run by providers of another dialect only; leave it out or do not force it.",
        param="tool_choice",
    )


def _write_output(prompt: Prompt, effort: str | None, lost: list[str]) -> Json:
    output: Json = {} if effort is None else {"effort": effort}
    if prompt.format is None:
        return output
    if prompt.format.schema is None:
        lost.append("response_format")
    else:
        output["format"] = {"type": "json_schema", "schema": prompt.format.schema}
    return output


def _encode(payload: Json) -> bytes:
    try:
        return msgspec.json.encode(payload)
    except (UnicodeEncodeError, OverflowError, RecursionError):
        raise CannotCarry("The request holds text or numbers that JSON cannot carry.") from None
