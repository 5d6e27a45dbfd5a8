"""Responses requests, written from a `Prompt`. They are stateless: the whole conversation, and nothing is stored.

Source: the OpenAI API reference, "Create a model response".
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from eggpool.wire import fields
from eggpool.wire.prompt import (
    Block,
    CannotCarry,
    Document,
    Effort,
    Format,
    Image,
    Prompt,
    Reasoning,
    Refused,
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
from eggpool.wire.responses.words import LOGPROBS, SEALED_THOUGHTS

Json = dict[str, object]

_ANY_OBJECT = msgspec.Raw(b'{"type":"object","properties":{}}')
_DEFAULT_IMAGE = "image/png"
_DEFAULT_DOCUMENT = ("application/pdf", "document.pdf")
_MAX_USER_CHARS = 128  # of `safety_identifier`

# The types of the tools that providers of this dialect run or describe themselves.
_OWN_TOOLS = frozenset(
    {
        "apply_patch", "code_interpreter", "computer", "computer_use_preview", "file_search", "image_generation",
        "local_shell", "mcp", "programmatic_tool_calling", "shell", "tool_search", "web_search",
        "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11",
    }
)  # fmt: skip

# Sampling that this dialect has no words for, by field of `Sampling` and the name under which it is told as lost.
_LOST_SAMPLING = ("top_k", "frequency_penalty", "presence_penalty", "seed")


def write_request(prompt: Prompt, *, output_limit: int | None = None) -> Written:
    """A prompt as a Responses request. Raises CannotCarry. `output_limit` is not needed here."""
    if prompt.pins:
        raise CannotCarry(
            f"{prompt.pins[0]} refers to what only the provider that made it knows; send the whole conversation.",
            param=prompt.pins[0],
        )
    if prompt.choices > 1:
        raise CannotCarry("Responses gives one answer to a request; ask several times for more.", param="n")
    lost = [f"tools.{tool.type}" for tool in prompt.tools if isinstance(tool, ServerTool) and not _is_own(tool)]
    lost += [*prompt.extras, *prompt.dropped]
    payload: Json = {"model": prompt.model}
    if prompt.instructions:
        payload["instructions"] = "\n\n".join(text.text for text in prompt.instructions)
    payload["input"] = _Items(prompt, lost).write()
    payload["store"] = False
    tools = _write_tools(prompt.tools)
    if tools:
        payload["tools"] = tools
        if prompt.parallel_tools is not None:
            payload["parallel_tool_calls"] = prompt.parallel_tools
    else:
        refuse_forced(prompt)
    if prompt.tool_choice is not None and (tools or prompt.tool_choice.server):
        payload["tool_choice"] = _write_choice(prompt.tool_choice, prompt)
    if prompt.max_output_tokens is not None:
        payload["max_output_tokens"] = prompt.max_output_tokens
    _write_sampling(payload, prompt, lost)
    include = [LOGPROBS] if prompt.logprobs else []
    if prompt.reasoning is not None:
        payload |= _write_reasoning(prompt.reasoning)
        if prompt.reasoning.enabled and effort_of(prompt.reasoning) is not Effort.NONE:
            include.append(SEALED_THOUGHTS)  # nothing is stored, so this is how thoughts reach the next turn
    if include:
        payload["include"] = include
    text: Json = {}
    if prompt.format is not None:
        text["format"] = _write_format(prompt.format)
    if prompt.verbosity is not None:
        text["verbosity"] = prompt.verbosity
    if text:
        payload["text"] = text
    if prompt.cache_key is not None:
        payload["prompt_cache_key"] = prompt.cache_key
    if prompt.user is not None and len(prompt.user) <= _MAX_USER_CHARS:
        payload["safety_identifier"] = prompt.user
    elif prompt.user is not None:
        lost.append("user")
    if prompt.stream:
        payload["stream"] = True
    return Written(msgspec.json.encode(payload), tuple(dict.fromkeys(lost)))


class _Items:
    """Writes the input of one prompt, and notes what is lost."""

    def __init__(self, prompt: Prompt, lost: list[str]) -> None:
        self._prompt = prompt
        self._tools = tools_by_name(prompt)
        self._lost = lost
        self._items: list[Json] = []

    def write(self) -> list[Json]:
        """All items."""
        self._note_marks(self._prompt.instructions)
        for tool in self._tools.values():
            if tool.cache is not None:
                self._lost.append("cache_control")
        for turn in self._prompt.turns:
            self._note_marks(turn.blocks)
            if turn.role == "assistant":
                self._assistant(turn)
            else:
                self._others(turn)
        return self._items

    def _others(self, turn: Turn) -> None:
        """A turn of the user, or instructions on the way; results of tools stand between the messages."""
        parts: list[Json] = []
        for block in turn.blocks:
            if isinstance(block, ToolResult):
                self._message(turn.role, parts)
                parts = []
                self._result(block)
            else:
                parts.append(_write_part(block))
        self._message(turn.role, parts)

    def _message(self, role: str, parts: list[Json]) -> None:
        if parts:
            self._items.append({"type": "message", "role": role, "content": parts})

    def _result(self, result: ToolResult) -> None:
        self._note_marks(result.content)
        if result.failed:
            self._lost.append("is_error")
        output: object = [_write_part(block) for block in result.content]
        if all(isinstance(block, Text) for block in result.content) and len(result.content) <= 1:
            output = "".join(block.text for block in result.content if isinstance(block, Text))
        kind = "custom_tool_call_output" if result.custom else "function_call_output"
        self._items.append({"type": kind, "call_id": result.call_id, "output": output})

    def _assistant(self, turn: Turn) -> None:
        for block in turn.blocks:
            match block:
                case Text():
                    self._items.append({"type": "message", "role": "assistant", "content": block.text})
                case Refused():
                    part: Json = {"type": "refusal", "refusal": block.text}
                    said: Json = {"type": "message", "role": "assistant", "content": [part]}
                    self._items.append(said | {"id": f"msg_{len(self._items)}", "status": "completed"})
                case ToolCall():
                    self._items.append(self._call(block))
                case Thinking():
                    self._thinking(block)
                case _:
                    raise CannotCarry("A model's turn holds what only a user can send.", param="input")

    def _call(self, call: ToolCall) -> Json:
        tool = self._tools.get(call.name)
        item: Json = {"type": "custom_tool_call" if call.custom else "function_call", "call_id": call.id}
        item["name"] = call.name if tool is None else tool.name
        if tool is not None and tool.namespace is not None:
            item["namespace"] = tool.namespace
        if call.custom:
            item["input"] = call.arguments
        else:
            item["arguments"] = call.arguments or "{}"
        return item

    def _thinking(self, thought: Thinking) -> None:
        """Thoughts go back to whom they may have come from: what other dialects seal is never understood here."""
        own = thought.encrypted is not None or thought.id is not None or thought.summary
        if not own or thought.signature is not None or thought.redacted is not None:
            self._lost.append("thinking")
            return
        item: Json = {"type": "reasoning"}
        if thought.id is not None:
            item["id"] = thought.id
        item["summary"] = [{"type": "summary_text", "text": text} for text in thought.summary]
        if thought.text:
            item["content"] = [{"type": "reasoning_text", "text": thought.text}]
        if thought.encrypted is not None:
            item["encrypted_content"] = thought.encrypted
        self._items.append(item)

    def _note_marks(self, blocks: Iterable[Block]) -> None:
        for block in blocks:
            if not isinstance(block, Thinking | Refused) and block.cache is not None:
                self._lost.append("cache_control")


def _write_part(block: Block) -> Json:
    match block:
        case Text():
            return {"type": "input_text", "text": block.text}
        case Image():
            data = f"data:{block.media_type or _DEFAULT_IMAGE};base64,{block.data}"
            return {
                "type": "input_image",
                "image_url": block.url if block.url is not None else data,
                "detail": block.detail or "auto",
            }
        case Document(text=str(text)):
            return {"type": "input_text", "text": text}
        case Document(url=str(url)):
            file: Json = {"type": "input_file", "file_url": url}
            return file if block.name is None else file | {"filename": block.name}
        case Document():
            media_type, name = _DEFAULT_DOCUMENT
            data = f"data:{block.media_type or media_type};base64,{block.data or ''}"
            return {"type": "input_file", "file_data": data, "filename": block.name or name}
        case _:
            raise CannotCarry("A user's turn holds what only a model can say.", param="input")


def _is_own(tool: ServerTool) -> bool:
    return tool.type in _OWN_TOOLS


def _write_tools(tools: Iterable[Tool | ServerTool]) -> list[object]:
    """The tools; those of one group stand together where the first of them stood."""
    written: list[object] = []
    groups: dict[str, list[Json]] = {}
    for tool in tools:
        if isinstance(tool, ServerTool):
            if _is_own(tool):
                written.append(tool.raw)
        elif tool.namespace is None:
            written.append(_write_tool(tool))
        else:
            if tool.namespace not in groups:
                groups[tool.namespace] = []
                group: Json = {"type": "namespace", "name": tool.namespace, "description": ""}
                written.append(group | {"tools": groups[tool.namespace]})
            groups[tool.namespace].append(_write_tool(tool))
    return written


def _write_tool(tool: Tool) -> Json:
    written: Json = {"type": "custom" if tool.custom else "function", "name": tool.name}
    if tool.description is not None:
        written["description"] = tool.description
    if not tool.custom:
        written["parameters"] = tool.parameters or _ANY_OBJECT
        # Left out it would mean "if possible" here, and "no" in the other dialects.
        written["strict"] = bool(tool.strict)
    elif tool.format is not None:
        written["format"] = _write_grammar(tool.format)
    return written


def _write_grammar(told: msgspec.Raw) -> object:
    """A custom tool's format; Chat keeps the grammar one level deeper."""
    members = fields.decode_object(bytes(told))
    inner = fields.mapping(members.get("grammar"))
    return {"type": "grammar", **inner} if inner else told


def _write_choice(choice: ToolChoice, prompt: Prompt) -> object:
    if choice.mode != "named":
        return choice.mode
    if choice.server:
        if any(_is_own(tool) for tool in prompt.tools if isinstance(tool, ServerTool) and tool.type == choice.name):
            return {"type": choice.name}
        raise CannotCarry(
            f"The tool {choice.name} is run by providers of another dialect only; leave it out or do not force it.",
            param="tool_choice",
        )
    tool = tools_by_name(prompt).get(choice.name or "")
    kind = "custom" if tool is not None and tool.custom else "function"
    return {"type": kind, "name": choice.name if tool is None else tool.name}


def _write_sampling(payload: Json, prompt: Prompt, lost: list[str]) -> None:
    sampling = prompt.sampling
    if sampling.temperature is not None:
        payload["temperature"] = sampling.temperature
    if sampling.top_p is not None:
        payload["top_p"] = sampling.top_p
    lost += [name for name in _LOST_SAMPLING if getattr(sampling, name) is not None]
    if sampling.stop:
        lost.append("stop")
    if prompt.top_logprobs is not None:
        payload["top_logprobs"] = prompt.top_logprobs


def _write_reasoning(reasoning: Reasoning) -> Json:
    effort = effort_of(reasoning)
    told: Json = {}
    if effort is not None:
        told["effort"] = effort
    if reasoning.summary is not None:
        told["summary"] = reasoning.summary
    return {"reasoning": told} if told else {}


def _write_format(wanted: Format) -> Json:
    if wanted.schema is None:
        return {"type": "json_object"}
    schema: Json = {"type": "json_schema", "name": wanted.name or "answer", "schema": wanted.schema}
    if wanted.description is not None:
        schema["description"] = wanted.description
    if wanted.strict is not None:
        schema["strict"] = wanted.strict
    return schema
