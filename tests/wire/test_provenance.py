"""A request without what only its maker can read: nothing else is missing, and nothing else is changed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.domain import Dialect
from eggpool.wire import envelope
from eggpool.wire.provenance import without

MESSAGES, RESPONSES, CHAT = Dialect.MESSAGES, Dialect.RESPONSES, Dialect.CHAT

THINKING = b'{"type":"thinking","thinking":"hm","signature":"EqQB"}'
REDACTED = b'{ "data":"EmwK", "type":"redacted_thinking" }'
CALL = b'{"type":"tool_use","id":"t1","name":"f","input":{"a" : 1.0, "b":"\\u00e9"}}'
RESULT = b'{"role":"user","content":[ {"type":"tool_result","tool_use_id":"t1","content":"ok"} ]}'
TEXT = b'{"role": "assistant", "content": "plain"}'
REASONING = b'{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gAAA"}'
COMPACTION = b'{"type":"compaction","encrypted_content":"gBBB"}'
SAID = b'{"role":"user","content":[{"type":"input_text","text" : "hi"}]}'


def bare(body: bytes, dialect: Dialect) -> bytes | None:
    """The body without such items, None when nothing was found."""
    found = without(envelope.read(body), dialect)
    return None if found is None else found.body


def test_thinking_goes_and_the_rest_stays() -> None:
    """Both kinds of thinking are taken out of the messages that hold them; every other value keeps its bytes."""
    body = (
        b'{"model":"m", "messages": [' + TEXT + b',{"role":"assistant","content":[' + THINKING + b", " + REDACTED
        + b"," + CALL + b"]}, " + RESULT + b'] , "thinking": {"type":"enabled"} }'
    )  # fmt: skip
    assert bare(body, MESSAGES) == (
        b'{"model":"m", "messages": [' + TEXT + b',{"role":"assistant","content":[' + CALL + b"]},"
        + RESULT + b'] , "thinking": {"type":"enabled"} }'
    )  # fmt: skip


def test_a_message_of_thinking_only_goes_as_a_whole() -> None:
    """No message is left without content, because such a one is refused."""
    body = b'{"model":"m","messages":[' + RESULT + b',{"role":"assistant","content":[' + THINKING + b"]}]}"
    assert bare(body, MESSAGES) == b'{"model":"m","messages":[' + RESULT + b"]}"


def test_reasoning_goes_and_the_rest_stays() -> None:
    """Reasoning items are taken out of the input; what stands for the conversation itself stays."""
    items = b",".join([SAID, REASONING, COMPACTION, b'{"type":"function_call","arguments":"{ }"}'])
    left = b",".join([SAID, COMPACTION, b'{"type":"function_call","arguments":"{ }"}'])
    start, end = b'{"stream":true,"input": [', b'], "model":"m"}'
    assert bare(start + items + end, RESPONSES) == start + left + end


@pytest.mark.parametrize(
    ("body", "dialect"),
    [
        (b'{"model":"m","messages":[' + TEXT + b"," + RESULT + b"]}", MESSAGES),
        (b'{"model":"m","input":[' + SAID + b"]}", RESPONSES),
        (b'{"model":"m","input":"reasoning"}', RESPONSES),
        (b'{"model":"m"}', MESSAGES),
        (b'{"model":"m","messages":[{"role":"assistant","content":[' + THINKING + b"]}]}", CHAT),
        (b'{"model":"m","input":[' + REASONING + b"]}", MESSAGES),
        # shapes that no dialect has
        (b'{"model":"m","messages":{}}', MESSAGES),
        (b'{"model":"m","messages":[7]}', MESSAGES),
        (b'{"model":"m","messages":[{"content":[7]}]}', MESSAGES),
        (b'{"model":"m","messages":[{"content":[{"type":7}]}]}', MESSAGES),
        (b'{"model":"m","input":[[]]}', RESPONSES),
        (b'{"model":"m","input":[{"type":"\xff"}]}', RESPONSES),
    ],
)
def test_nothing_to_take_out(body: bytes, dialect: Dialect) -> None:
    """Where there is no such item, or nobody can say, there is no other request."""
    assert bare(body, dialect) is None


BLOCKS = st.lists(st.sampled_from([THINKING, REDACTED, CALL, b'{"type":"text","text":"a"}']), max_size=4)


@given(st.lists(BLOCKS, max_size=4))
def test_any_conversation(conversation: list[list[bytes]]) -> None:
    """Whatever the conversation, exactly the thinking is missing afterwards."""
    messages = [b'{"role":"assistant","content":[' + b", ".join(blocks) + b"]}" for blocks in conversation]
    found = bare(b'{"model":"m","messages":[' + b",".join(messages) + b"]}", MESSAGES)

    def blocks_in(body: bytes) -> list[Any]:
        return [block for message in json.loads(body)["messages"] for block in message["content"]]

    wanted = [json.loads(block) for blocks in conversation for block in blocks if block not in (THINKING, REDACTED)]
    held = [block for blocks in conversation for block in blocks if block in (THINKING, REDACTED)]
    assert (found is None) == (not held)
    if found is not None:
        assert blocks_in(found) == wanted
        assert bare(found, MESSAGES) is None
