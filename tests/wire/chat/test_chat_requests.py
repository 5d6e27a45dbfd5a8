"""Chat Completions requests: read into a prompt, written from one, and judged by OpenAI's own types."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming
from pydantic import TypeAdapter

from eggpool.errors import WireError
from eggpool.wire import chat
from eggpool.wire.prompt import (
    Block,
    CacheMark,
    CannotCarry,
    Document,
    Effort,
    Format,
    Image,
    Prompt,
    Reasoning,
    Refused,
    Sampling,
    ServerTool,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)

GOLDEN = Path(__file__).parents[2] / "golden" / "chat"
REQUEST: TypeAdapter[Any] = TypeAdapter(CompletionCreateParamsStreaming)

SCHEMA = msgspec.Raw(
    b'{"type":"object","properties":{"path":{"type":"string"}},"required":["path"],"additionalProperties":false}'
)
PLAN = msgspec.Raw(b'{"type":"object","properties":{"steps":{"type":"array","items":{"type":"string"}}}}')
AGENT = Prompt(
    model="glm-5.3",
    instructions=(Text("You are a coding agent."), Text("Be brief.", CacheMark("1h"))),
    turns=(
        Turn(
            "user",
            (
                Text("What is in this picture?"),
                Image(data="iVBORw0KGgo=", media_type="image/png", detail="low"),
                Image(url="https://example.com/cat.png"),
            ),
        ),
        Turn(
            "assistant",
            (
                ToolCall("call_a1", "read_file", '{"path": "a.py"}'),
                ToolCall("call_b2", "read_file", '{"path": "b.py"}'),
            ),
        ),
        Turn("user", (ToolResult("call_a1", (Text("print(1)"),)), ToolResult("call_b2", (Text("print(2)"),)))),
        Turn("system", (Text("The user switched to plan mode."),)),
        Turn("user", (Text("Go on."),)),
    ),
    stream=True,
    include_usage=True,
    tools=(Tool("read_file", "Reads a file.", SCHEMA, strict=True),),
    tool_choice=ToolChoice("named", "read_file"),
    parallel_tools=False,
    max_output_tokens=32000,
    sampling=Sampling(temperature=0.2, seed=7, stop=("<end>",)),
    reasoning=Reasoning(effort=Effort.HIGH),
    format=Format(
        msgspec.Raw(b'{"type":"object","properties":{"steps":{"type":"array","items":{"type":"string"}}}}'),
        "plan",
        strict=True,
    ),
    user="dev-7",
    cache_key="conv-1",
    extras={"service_tier": msgspec.Raw(b'"flex"')},
)


def plain(prompt: Prompt) -> Any:
    """A prompt as plain values, so that raw JSON is compared by what it means."""

    def unraw(value: Any) -> Any:
        if isinstance(value, msgspec.Raw):
            return msgspec.json.decode(value)
        if isinstance(value, msgspec.Struct):
            return {type(value).__name__: {name: unraw(getattr(value, name)) for name in value.__struct_fields__}}
        if isinstance(value, dict):
            return {name: unraw(inner) for name, inner in value.items()}
        return [unraw(inner) for inner in value] if isinstance(value, tuple) else value

    return unraw(prompt)


def body_of(*messages: dict[str, object], **more: object) -> bytes:
    """A request."""
    return msgspec.json.encode({"model": "m", "messages": list(messages), **more})


def test_a_golden_request() -> None:
    """What an agent sends is read completely."""
    assert plain(chat.read_request((GOLDEN / "agent_request.json").read_bytes())) == plain(AGENT)


def test_a_request_is_written_as_openai_defines_it() -> None:
    """OpenAI's own types accept what is written, and it says what the prompt says; what it cannot say is named."""
    written = chat.write_request(AGENT)
    payload = msgspec.json.decode(written.body)
    REQUEST.validate_python(payload)
    assert payload["stream_options"] == {"include_usage": True}
    assert [message["role"] for message in payload["messages"]] == [
        "system", "user", "assistant", "tool", "tool", "system", "user",
    ]  # fmt: skip
    assert payload["messages"][0]["content"] == "You are a coding agent.\n\nBe brief."
    assert set(written.lost) == {"cache_control", "service_tier"}


def test_written_and_read_again_is_the_same() -> None:
    """Nothing that this dialect knows changes on the way out and in."""
    known = msgspec.structs.replace(AGENT, instructions=(Text("You are a coding agent."),), extras={})
    assert plain(chat.read_request(chat.write_request(known).body)) == plain(known)


WORDS = st.text(min_size=1, max_size=12)
ARGUMENTS = st.dictionaries(WORDS, WORDS, max_size=2).map(lambda values: msgspec.json.encode(values).decode())
CALLS = st.builds(ToolCall, WORDS, WORDS, ARGUMENTS)
TEXTS = st.builds(Text, WORDS)
RESULTS = st.builds(ToolResult, WORDS, TEXTS.map(lambda text: (text,)))
PARTS = TEXTS | st.builds(Image, url=st.just("https://example.com/x.png"))


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Turn, ...]:
    """Turns of a user and a model, in turn."""
    turns: list[Turn] = []
    for _ in range(draw(st.integers(0, 3))):
        user: list[Block] = [*draw(st.lists(RESULTS, max_size=2)), *draw(st.lists(PARTS, min_size=1, max_size=3))]
        model: list[Block] = [draw(TEXTS), *draw(st.lists(CALLS, max_size=2))]
        turns += [Turn("user", tuple(user)), Turn("assistant", tuple(model))]
    return tuple(turns)


PROMPTS = st.builds(
    Prompt,
    model=WORDS,
    instructions=TEXTS.map(lambda text: (text,)) | st.just(()),
    turns=conversations(),
    tools=st.lists(st.builds(Tool, WORDS, WORDS, st.just(SCHEMA), st.booleans()), max_size=2).map(tuple),
    max_output_tokens=st.none() | st.integers(1, 1 << 20),
    sampling=st.builds(
        Sampling,
        temperature=st.none() | st.floats(0, 2),
        top_p=st.none() | st.floats(0, 1),
        frequency_penalty=st.none() | st.floats(-2, 2),
        seed=st.none() | st.integers(0, 1 << 30),
        stop=st.lists(WORDS, max_size=2).map(tuple),
    ),
    reasoning=st.none() | st.builds(Reasoning, effort=st.sampled_from(sorted(set(Effort) - {Effort.NONE}))),
    user=st.none() | WORDS,
)


@given(PROMPTS)
def test_written_and_read_again_is_the_same_for_any_prompt(prompt: Prompt) -> None:
    """Writing and reading is the identity on everything that the dialect knows."""
    written = chat.write_request(prompt)
    assert written.lost == ()
    assert plain(chat.read_request(written.body)) == plain(prompt)


def test_results_with_pictures() -> None:
    """A tool's picture follows in the user's own message, because a tool message holds text only."""
    prompt = Prompt(
        model="m",
        turns=(
            Turn("assistant", (ToolCall("c1", "look", "{}"), ToolCall("c2", "look", ""))),
            Turn(
                "user",
                (
                    ToolResult("c1", (Text("seen"), Image(data="AAAA", media_type="image/png")), failed=True),
                    ToolResult("c2", (Text("too"),)),
                    Text("And?"),
                ),
            ),
        ),
    )
    written = chat.write_request(prompt)
    messages = msgspec.json.decode(written.body)["messages"]
    assert [message["role"] for message in messages] == ["assistant", "tool", "tool", "user"]
    assert messages[0]["tool_calls"][1]["function"]["arguments"] == "{}"
    assert [part["type"] for part in messages[3]["content"]] == ["image_url", "text"]
    assert messages[3]["content"][0]["image_url"]["url"] == "data:image/png;base64,AAAA"
    assert written.lost == ("is_error",)


def test_what_cannot_be_said_is_refused_or_named() -> None:
    """What the answer depends on is a refusal that names it; the rest is listed."""
    search = ServerTool("web_search", msgspec.Raw(b'{"type":"web_search"}'))
    turn = Turn("user", (Text("x"),))
    offered = Prompt("m", (turn,), tools=(search,))
    assert chat.write_request(offered).lost == ("tools.web_search",)
    forced = msgspec.structs.replace(offered, tool_choice=ToolChoice("named", "web_search", server=True))
    with pytest.raises(CannotCarry, match="web_search") as refused:
        chat.write_request(forced)
    assert refused.value.param == "tool_choice"
    with pytest.raises(CannotCarry, match="whole conversation"):
        chat.write_request(Prompt("m", (turn,), pins=("previous_response_id",)))
    with pytest.raises(CannotCarry, match="URL"):
        chat.write_request(Prompt("m", (Turn("user", (Document(url="https://example.com/a.pdf"),)),)))
    thoughtful = Prompt("m", (turn, Turn("assistant", (Thinking("Hm.", signature="c2ln"), Text("Yes.")))))
    assert chat.write_request(thoughtful).lost == ("thinking",)
    named = Prompt("m", (turn,), user="u" * 65)
    assert chat.write_request(named).lost == ("user",)


def test_unsealed_thoughts_go_back() -> None:
    """Providers that think in this dialect refuse a turn whose thoughts are missing; thoughts alone are no turn."""
    call = ToolCall("call_1", "read_file", "{}")
    turns = (
        Turn("user", (Text("x"),)),
        Turn("assistant", (Thinking("Hm."), Thinking(summary=("So ", "be it.")), call)),
        Turn("user", (ToolResult("call_1", (Text("y"),)),)),
        Turn("assistant", (Thinking("Nothing to say."),)),
    )
    written = chat.write_request(Prompt("m", turns))
    assert written.lost == ()
    messages = msgspec.json.decode(written.body)["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "tool"]
    assert messages[1]["reasoning_content"] == "Hm.So be it."


def test_custom_tools_are_bridged() -> None:
    """A tool that takes free text becomes a function with one text, and so does a call of it."""
    prompt = Prompt(
        "m",
        (
            Turn("user", (Text("x"),)),
            Turn("assistant", (ToolCall("c1", "apply_patch", "*** Begin\n", custom=True),)),
            Turn("user", (ToolResult("c1", (Text("done"),), custom=True),)),
        ),
        tools=(Tool("apply_patch", "Patches files.", custom=True), Tool("spawn", namespace="agents")),
    )
    payload = msgspec.json.decode(chat.write_request(prompt).body)
    function = payload["tools"][0]["function"]
    assert function["name"] == "apply_patch"
    assert function["parameters"]["required"] == ["input"]
    assert payload["tools"][1]["function"]["name"] == "agents__spawn"
    call = payload["messages"][1]["tool_calls"][0]["function"]
    assert msgspec.json.decode(call["arguments"]) == {"input": "*** Begin\n"}


def test_odd_requests_are_read() -> None:
    """What agents and old clients send beside the textbook."""
    file = {"file_data": "data:application/pdf;base64,QQ==", "filename": "a.pdf"}
    prompt = chat.read_request(
        body_of(
            {"role": "user", "content": ["plain", {"type": "text", "text": "part"}]},
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "1"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "reasoning_content": "Hm."},
            {"role": "user", "content": [{"type": "file", "file": file}]},
            {"role": "user", "content": [{"type": "image_url", "image_url": "https://example.com/x.png"}]},
            tools=[{"type": "custom", "custom": {"name": "p", "format": {"type": "text"}}}, {"type": "web_search"}],
            max_tokens=5,
            store=True,
            tool_choice="any",
        )
    )  # fmt: skip
    assert prompt.turns[0].blocks == (Text("plain"), Text("part"))
    assert prompt.turns[1].blocks == (ToolCall("f", "f", "{}"),)
    assert prompt.turns[2].blocks == (ToolResult("f", (Text("1"),)),)
    assert prompt.turns[3].blocks == (Thinking("Hm."), Refused("No."))
    assert prompt.turns[4].blocks == (
        Document(data="QQ==", media_type="application/pdf", name="a.pdf"),
        Image(url="https://example.com/x.png"),
    )
    assert prompt.max_output_tokens == 5
    assert prompt.pins == ("store",)
    assert prompt.tool_choice == ToolChoice("required")
    assert isinstance(prompt.tools[0], Tool)
    assert prompt.tools[0].custom
    assert isinstance(prompt.tools[1], ServerTool)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b"[]", "object", id="no object"),
        pytest.param(b'{"model":"m"}', "no messages", id="no messages"),
        pytest.param(b'{"messages":"x"}', "messages", id="messages of another type"),
        pytest.param(body_of({"role": "wizard", "content": "x"}), "role", id="unknown role"),
        pytest.param(body_of({"role": "user", "content": 5}), "messages", id="content of another type"),
        pytest.param(body_of(temperature="hot"), "temperature", id="words for a number"),
        pytest.param(body_of(tool_choice="sometimes"), "tool_choice", id="unknown choice"),
        pytest.param(b'{"messages":[{"role":"user","content":"\\ud83d"}]}', "JSON", id="half of a surrogate pair"),
        pytest.param(b'{"messages":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON", id="nested too deeply"),
    ],
)
def test_bad_requests_are_told_in_a_sentence(body: bytes, words: str) -> None:
    """What cannot be read is one kind of error, which names the fault."""
    with pytest.raises(WireError, match=words):
        chat.read_request(body)


NAMES = ("messages", "role", "content", "tool_calls", "function", "tools", "type", "stop", "tool_choice", "stream")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("user"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=15,
)


@given(st.binary(max_size=60) | JSON.map(lambda value: msgspec.json.encode({"messages": value, "tools": value})))
def test_nothing_but_a_wire_error(body: bytes) -> None:
    """Whatever comes is read, or refused with the one kind of error."""
    with contextlib.suppress(WireError):
        chat.write_request(chat.read_request(body))
