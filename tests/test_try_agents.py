"""The scripted model that real agents are tried with plays its part in every dialect."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from scripts.scripted_model import DONE, STEPS, TASK, faults, say_next
from scripts.try_agents import cases, found, order

from eggpool.domain import Dialect
from eggpool.scripted import Question
from eggpool.scripted.answer import SEAL

CALL = {"id": "c1", "type": "function", "function": {"name": "read", "arguments": "{}"}}
USE = {"type": "tool_use", "id": "c1", "name": "read", "input": {}}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "x"}
ITEM = {"type": "function_call", "call_id": "c1", "name": "read", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "x"}
TALKS: dict[Dialect, tuple[dict[str, Any], dict[str, Any]]] = {
    Dialect.CHAT: ({"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "tool_call_id": "c1"}),
    Dialect.MESSAGES: ({"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}),
    Dialect.RESPONSES: (ITEM, OUTPUT),
}


def asked(dialect: Dialect, *turns: dict[str, Any], tools: tuple[str, ...] = ()) -> Question:
    """A question that begins with the task."""
    offered = [{"type": "function", "function": {"name": name}} for name in tools]
    field = "input" if dialect is Dialect.RESPONSES else "messages"
    return Question(
        dialect, b"{}", {"model": "m", field: [{"role": "user", "content": TASK}, *turns], "tools": offered}
    )


def test_every_agent_meets_every_foreign_dialect() -> None:
    """No row comes twice, none is native, and each agent that speaks a dialect is tried on both others."""
    rows = list(cases())
    assert max(Counter(rows).values()) == 1
    assert all(row.dialect is not row.upstream for row in rows)
    tried = {(row.agent, row.dialect, row.upstream) for row in rows if not row.trouble}
    assert len(tried) == 2 * len({(agent, dialect) for agent, dialect, _ in tried})
    assert {dialect for _, dialect, _ in tried} == set(Dialect)
    assert {row.plan for row in rows} == set(STEPS) - {"subtask"}


@pytest.mark.parametrize("dialect", Dialect)
def test_calls_without_results_are_faults(dialect: Dialect) -> None:
    """A call and its result belong together, in every dialect."""
    call, result = TALKS[dialect]
    assert faults(asked(dialect, call, result)) == []
    assert faults(asked(dialect, call)) == ["the call c1 has no result"]
    assert faults(asked(dialect, result)) == ["the result c1 has no call"]


def test_seals_and_names_are_judged() -> None:
    """Somebody else's seal and a name that no provider takes are faults."""
    for seal, wrong in ((SEAL, 0), ("other", 1)):
        thought = {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": seal}]}
        assert len(faults(asked(Dialect.MESSAGES, thought))) == wrong
        assert len(faults(asked(Dialect.RESPONSES, {"type": "reasoning", "encrypted_content": seal}))) == wrong
    assert faults(asked(Dialect.CHAT, tools=("a.b",))) == ["a tool is called a.b"]


def test_the_model_goes_on_where_the_conversation_stands() -> None:
    """Each result brings it further; it ends with its last word, and says so when it cannot go on."""
    tools = ("exec_command", "apply_patch")
    said: list[Any] = []
    turns: list[dict[str, Any]] = []
    while True:
        answer = say_next(asked(Dialect.RESPONSES, *turns, tools=tools), "codex-patch", "/x")
        if not answer.tool_calls:
            break
        said.append([call.name for call in answer.tool_calls])
        turns += [OUTPUT] * len(answer.tool_calls)
    assert said == [["exec_command", "exec_command"], ["apply_patch"], ["exec_command"]]
    assert (answer.text, answer.stop) == (DONE, "end")
    assert say_next(asked(Dialect.RESPONSES, tools=("other",)), "codex-patch", "/x").text.startswith("NO TOOL")


def test_orders_are_made_for_every_row(tmp_path: Path) -> None:
    """Each row's agent is pointed at the pool, with the key where the agent looks for it, never on its command line."""
    for row in cases():
        told = order(row, "http://127.0.0.1:9", "ep_test-key", str(tmp_path))
        everything = [*told.environment.values(), *told.files.values()]
        assert any("http://127.0.0.1:9" in text for text in everything)
        assert not any("ep_" in text for text in told.arguments)
        assert any(text in ("ep_test-key", "ep_wrong") for text in told.environment.values())


def test_agents_are_found_in_a_folder(tmp_path: Path) -> None:
    """Programs are found in a folder and in its node_modules; what is not there is left out."""
    program = tmp_path / "node_modules" / ".bin" / "some-agent"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o755)
    assert found(["some-agent", "no-such-agent"], tmp_path) == {"some-agent": str(program)}
