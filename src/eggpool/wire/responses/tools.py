"""The tools of a Responses request and the choice among them, read into those of a `Prompt`.

Source: the OpenAI API reference, "Create a model response"; for groups of tools (`namespace`) what Codex sends.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

from eggpool.errors import WireError
from eggpool.wire.members import decode, is_told
from eggpool.wire.prompt import ServerTool, Tool, ToolChoice


class _Tool(msgspec.Struct):
    type: str = "function"
    name: str = ""
    description: str | None = None
    parameters: msgspec.Raw = msgspec.Raw()
    strict: bool | None = None
    format: msgspec.Raw = msgspec.Raw()
    tools: list[msgspec.Raw] | None = None


class _ToolKind(msgspec.Struct):
    type: str = "function"


class _Choice(msgspec.Struct):
    type: str = ""
    name: str | None = None
    mode: str | None = None
    tools: list[_NamedTool] | None = None


class _NamedTool(msgspec.Struct):
    type: str = ""
    name: str | None = None
    namespace: str | None = None


_TOOL_KIND = msgspec.json.Decoder(_ToolKind)
_TOOL = msgspec.json.Decoder(_Tool)
_CHOICE = msgspec.json.Decoder(str | _Choice)

Mode = Literal["auto", "none", "required"]
_MODES: dict[str, Mode] = {"auto": "auto", "none": "none", "required": "required", "any": "required"}


def flat(name: str, namespace: str | None) -> str:
    """The flat name of a tool."""
    return Tool(name, namespace=namespace or None).flat_name


def read_tools(told: list[msgspec.Raw] | None, namespace: str | None = None) -> list[Tool | ServerTool]:
    """A list of tools, those in groups with the group's name. Raises WireError."""
    found: list[Tool | ServerTool] = []
    for raw in told or ():
        kind = (decode({"tools": raw}, "tools", _TOOL_KIND) or _ToolKind()).type
        if kind not in ("function", "custom", "namespace"):
            found.append(ServerTool(kind, raw))
            continue
        tool = decode({"tools": raw}, "tools", _TOOL) or _Tool()
        if kind == "namespace" and namespace is None:
            found += read_tools(tool.tools, tool.name)
        elif kind == "function":
            found.append(
                Tool(tool.name, tool.description, _given(tool.parameters), tool.strict, namespace=namespace or None)
            )
        elif kind == "custom":
            found.append(
                Tool(tool.name, tool.description, custom=True, format=_given(tool.format), namespace=namespace or None)
            )
        else:
            raise WireError("The field tools has a group of tools inside another one.")
    return found


def unique(tools: list[Tool | ServerTool]) -> tuple[Tool | ServerTool, ...]:
    """The tools without those that a later one of the same name replaces."""
    last = {tool.flat_name if isinstance(tool, Tool) else bytes(tool.raw): tool for tool in tools}
    return tuple(last.values())


def read_choice(
    members: Mapping[str, msgspec.Raw], tools: tuple[Tool | ServerTool, ...]
) -> tuple[ToolChoice | None, tuple[Tool | ServerTool, ...]]:
    """The choice of a tool, and the tools that it leaves: a choice of several is said by leaving out the others.

    Raises WireError.
    """
    choice = decode(members, "tool_choice", _CHOICE)
    if choice is None:
        return None, tools
    if isinstance(choice, str):
        return ToolChoice(_mode(choice)), tools
    if choice.type == "allowed_tools":
        allowed = {_name(one) for one in choice.tools or ()}
        left = tuple(tool for tool in tools if _names(tool) & allowed)
        return ToolChoice(_mode(choice.mode or "auto")), left
    if choice.type in ("function", "custom"):
        return ToolChoice("named", _known_name(choice.name or "", tools)), tools
    return ToolChoice("named", choice.type, server=True), tools


def _mode(told: str) -> Mode:
    mode = _MODES.get(told)
    if mode is None:
        raise WireError("The field tool_choice is none of auto, none, required, or a tool.")
    return mode


def _names(tool: Tool | ServerTool) -> set[tuple[str, str]]:
    """What a tool may be called in a list of allowed ones: alone, with its group, without it, or by the group."""
    if isinstance(tool, ServerTool):
        return {(tool.type, "")}
    names = {("", tool.flat_name), ("", tool.name)}
    return names if tool.namespace is None else names | {("namespace", tool.namespace)}


def _name(told: _NamedTool) -> tuple[str, str]:
    """What a list of allowed tools calls one."""
    if told.type in ("function", "custom"):
        return "", flat(told.name or "", told.namespace)
    return told.type, (told.name or "") if told.type == "namespace" else ""


def _known_name(name: str, tools: tuple[Tool | ServerTool, ...]) -> str:
    """The flat name that a name stands for, which may leave out the tool's group."""
    own = [tool for tool in tools if isinstance(tool, Tool)]
    if any(tool.flat_name == name for tool in own):
        return name
    return next((tool.flat_name for tool in own if tool.name == name), name)


def _given(raw: msgspec.Raw) -> msgspec.Raw | None:
    return raw if is_told(raw) else None
