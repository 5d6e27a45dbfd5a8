"""The model that `try_agents.py` lets agents talk to: it calls an agent's own tools, step by step, in any dialect.

It has no memory. What it says next follows from how many results of tools the conversation already holds, as it would
for a real model. It also judges each request as strictly as real providers do: `faults` names what they would refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from eggpool.domain import Dialect, Usage
from eggpool.scripted import Answer, Question, ToolCall, count_tokens
from eggpool.scripted.answer import SEAL, texts

TASK = "Change the colour in notes.txt from red to blue, and write summary.txt."
SUBTASK = "Look at list.txt and say how many lines it has."
DONE = "The colour is blue now, and summary.txt is written."
SUBTASK_DONE = "It has three lines."
BEFORE = {"notes.txt": "The colour is red.\n", "list.txt": "one\ntwo\nthree\n"}
AFTER = {"notes.txt": "The colour is blue.\n", "summary.txt": 'All is done: é, "quotes", \\ and 🥚.\n'}

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_TEXT = AFTER["summary.txt"]
_PATCH = (
    "*** Begin Patch\n*** Update File: notes.txt\n@@\n-The colour is red.\n+The colour is blue.\n"
    f"*** Add File: summary.txt\n+{_TEXT}*** End Patch\n"
)
_SHELL_EDIT = f"sed -i s/red/blue/ notes.txt && cat > summary.txt <<'END'\n{_TEXT}END\ncat notes.txt summary.txt"


class Step(NamedTuple):
    """Calls that are made at once: a tool's name and its arguments, `{folder}` in them filled in."""

    calls: tuple[tuple[str, dict[str, Any]], ...]


STEPS: dict[str, tuple[Step, ...]] = {
    "claude": (
        Step((("Read", {"file_path": "{folder}/notes.txt"}), ("Read", {"file_path": "{folder}/list.txt"}))),
        Step((("Edit", {"file_path": "{folder}/notes.txt", "old_string": "red", "new_string": "blue"}),)),
        Step((("Write", {"file_path": "{folder}/summary.txt", "content": _TEXT}),)),
        Step((("Agent", {"description": "Count lines", "prompt": SUBTASK, "subagent_type": "general-purpose"}),)),
        Step((("Bash", {"command": "cat notes.txt; ls no-such-file", "description": "Show the notes"}),)),
    ),
    "codex": (
        Step((("exec_command", {"cmd": "cat notes.txt"}), ("exec_command", {"cmd": "cat list.txt"}))),
        Step((("exec_command", {"cmd": _SHELL_EDIT}),)),
        Step((("multi_agent_v1__spawn_agent", {"message": SUBTASK}),)),
        Step((("exec_command", {"cmd": "ls no-such-file"}),)),
    ),
    "codex-patch": (
        Step((("exec_command", {"cmd": "cat notes.txt"}), ("exec_command", {"cmd": "cat list.txt"}))),
        Step((("apply_patch", {"input": _PATCH}),)),
        Step((("exec_command", {"cmd": "ls no-such-file"}),)),
    ),
    "codex-code": (
        Step((("functions__exec", {"input": 'text(await tools.exec_command({cmd: "cat notes.txt"}));'}),)),
        Step((("functions__exec", {"input": f"text(await tools.apply_patch({json.dumps(_PATCH)}));"}),)),
    ),
    "opencode": (
        Step((("read", {"filePath": "{folder}/notes.txt"}), ("read", {"filePath": "{folder}/list.txt"}))),
        Step((("edit", {"filePath": "{folder}/notes.txt", "oldString": "red", "newString": "blue"}),)),
        Step((("write", {"filePath": "{folder}/summary.txt", "content": _TEXT}),)),
        Step((("task", {"description": "Count lines", "prompt": SUBTASK, "subagent_type": "general"}),)),
        Step((("bash", {"command": "cat notes.txt; ls no-such-file", "description": "Show the notes"}),)),
    ),
    "subtask": (
        Step(
            (
                ("Read", {"file_path": "{folder}/list.txt"}),
                ("read", {"filePath": "{folder}/list.txt"}),
                ("exec_command", {"cmd": "wc -l list.txt"}),
            )
        ),
    ),
}
"""What is done, by agent. Of the subtask's calls those are made whose tool is offered."""


def say_next(question: Question, agent: str, folder: str) -> Answer:
    """The next answer: calls of tools while there are steps left, then a last word."""
    text = " ".join(texts(question.turns))
    if not question.tools and TASK not in text and SUBTASK not in text:
        return _answer(question, "Something else")
    if not question.tools:
        return _answer(question, "Colours and eggs")  # agents ask for a title
    subtask = SUBTASK in text and TASK not in text
    results = sum(1 for _ in _results(question))
    for step in STEPS["subtask" if subtask else agent]:
        calls = [(name, arguments) for name, arguments in step.calls if not subtask or name in question.tools]
        if results <= 0:
            missing = [name for name, _ in calls if name not in question.tools]
            if missing or not calls:
                return _answer(question, f"NO TOOL {' '.join(missing)}: {' '.join(question.tools)}")
            return _answer(question, "", tuple(ToolCall(name, _filled(one, folder)) for name, one in calls))
        results -= len(calls)
    return _answer(question, SUBTASK_DONE if subtask else DONE)


def faults(question: Question) -> list[str]:
    """What a strict provider of the question's dialect would refuse."""
    found = [f"a tool is called {name}" for name in question.tools if not _TOOL_NAME.fullmatch(name)]
    called, answered = set(_calls(question)), set(_results(question))
    found += [f"the call {call} has no result" for call in called - answered]
    found += [f"the result {call} has no call" for call in answered - called]
    found += [f"a seal that is not ours: {seal!r}" for seal in _seals(question) if seal != SEAL]
    return found


def _answer(question: Question, text: str, calls: tuple[ToolCall, ...] = ()) -> Answer:
    spent = count_tokens(text) + sum(count_tokens(call.arguments) for call in calls)
    usage = Usage(input_tokens=question.input_tokens, output_tokens=spent + 3, reasoning_tokens=3)
    return Answer(text, usage, calls, "tools" if calls else "end", thinking="I think so.")


def _filled(arguments: dict[str, Any], folder: str) -> str:
    filled = {
        name: value.replace("{folder}", folder) if isinstance(value, str) else value
        for name, value in arguments.items()
    }
    return json.dumps(filled, ensure_ascii=False)


def _blocks(question: Question) -> Iterator[dict[str, Any]]:
    for turn in question.turns:
        content = turn.get("content") if isinstance(turn, dict) else None
        yield from (block for block in content or () if isinstance(block, dict))


def _calls(question: Question) -> Iterator[str]:
    """The ids of the calls in a conversation."""
    if question.dialect is Dialect.MESSAGES:
        yield from (str(block["id"]) for block in _blocks(question) if block.get("type") == "tool_use")
    elif question.dialect is Dialect.CHAT:
        for turn in question.turns:
            yield from (str(call["id"]) for call in turn.get("tool_calls") or ())
    else:
        kinds = ("function_call", "custom_tool_call")
        yield from (str(item["call_id"]) for item in question.turns if item.get("type") in kinds)


def _results(question: Question) -> Iterator[str]:
    """The ids of the calls whose results stand in a conversation."""
    if question.dialect is Dialect.MESSAGES:
        yield from (str(block["tool_use_id"]) for block in _blocks(question) if block.get("type") == "tool_result")
    elif question.dialect is Dialect.CHAT:
        yield from (str(turn["tool_call_id"]) for turn in question.turns if turn.get("role") == "tool")
    else:
        kinds = ("function_call_output", "custom_tool_call_output")
        yield from (str(item["call_id"]) for item in question.turns if item.get("type") in kinds)


def _seals(question: Question) -> Iterator[object]:
    """What stands in the places of sealed thoughts."""
    if question.dialect is Dialect.MESSAGES:
        yield from (block.get("signature") for block in _blocks(question) if block.get("type") == "thinking")
    elif question.dialect is Dialect.RESPONSES:
        yield from (item.get("encrypted_content") for item in question.turns if item.get("type") == "reasoning")
