"""Responses requests: read into a prompt, written from one, and judged by OpenAI's own types."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses.response_create_params import ResponseCreateParamsStreaming
from pydantic import TypeAdapter

from eggpool.errors import WireError
from eggpool.wire import responses
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

GOLDEN = Path(__file__).parents[2] / "golden" / "responses"
REQUEST: TypeAdapter[Any] = TypeAdapter(ResponseCreateParamsStreaming)

SCHEMA = msgspec.Raw(b'{"type":"object","properties":{"cmd":{"type":"string"}},"required":["cmd"]}')
TARGET = msgspec.Raw(b'{"type":"object","properties":{"target":{"type":"string"}}}')
GRAMMAR = msgspec.Raw(b'{"type":"grammar","syntax":"lark","definition":"start: SOURCE"}')
SEARCH = ServerTool("web_search", msgspec.Raw(b'{"type":"web_search","external_web_access":true}'))
CODEX = Prompt(
    model="gpt-6-luna",
    instructions=(Text("You are a coding agent."), Text("Skills: none."), Text("Be brief.")),
    turns=(
        Turn(
            "user",
            (
                Text("<environment_context/>"),
                Text("Patch this."),
                Image(data="iVBORw0KGgo=", media_type="image/png", detail="low"),
            ),
        ),
        Turn(
            "assistant",
            (
                Thinking(summary=("Reading first.",), encrypted="gAAAAABo-fake", id="rs_05"),
                Text("I'll look."),
                ToolCall("call_a1", "exec_command", '{"cmd":"cat a.py"}'),
                ToolCall("call_b2", "multi_agent_v1__close_agent", '{"target":"7"}'),
                ToolCall("call_c3", "functions__exec", "text(1)\n", custom=True),
            ),
        ),
        Turn(
            "user",
            (
                ToolResult("call_a1", (Text("print(1)"),)),
                ToolResult("call_b2", (Text("closed"), Image(url="https://example.com/shot.png", detail="auto"))),
                ToolResult("call_c3", (Text("1"),), custom=True),
            ),
        ),
        Turn("developer", (Text("Plan mode is on."),)),
        Turn("user", (Text("Go on."),)),
    ),
    stream=True,
    tools=(
        Tool("exec_command", "Runs a command.", SCHEMA, strict=False),
        Tool("close_agent", "Closes an agent.", TARGET, strict=False, namespace="multi_agent_v1"),
        SEARCH,
        Tool("exec", "Runs JavaScript.", custom=True, format=GRAMMAR, namespace="functions"),
    ),
    tool_choice=ToolChoice("auto"),
    parallel_tools=True,
    reasoning=Reasoning(effort=Effort.MEDIUM, summary="auto"),
    verbosity="low",
    cache_key="01a210bb",
    extras={"client_metadata": msgspec.Raw(b'{"session_id":"01a210bb"}')},
    dropped=("input.phase",),
)
FOREIGN = Prompt(
    model="gpt-6-luna",
    instructions=(Text("You are a coding agent."), Text("Be brief.", CacheMark("1h"))),
    turns=(
        Turn(
            "user",
            (
                Text("Read these."),
                Document(url="https://example.com/a.pdf"),
                Document(data="JVBERi0=", media_type="application/pdf", name="b.pdf"),
                Document(text="plain words", name="c.txt"),
                Image(data="AAAA"),
            ),
        ),
        Turn("assistant", (Thinking("Hm.", signature="c2ln"), Text("No."), Refused("I can't."))),
        Turn("user", (ToolResult("toolu_1", (), failed=True), Text("Why?", CacheMark()))),
    ),
    tools=(Tool("read_file", "Reads.", SCHEMA, cache=CacheMark()), ServerTool("bash_20250124", msgspec.Raw(b"{}"))),
    tool_choice=ToolChoice("named", "read_file"),
    parallel_tools=False,
    max_output_tokens=32000,
    sampling=Sampling(temperature=0.2, top_k=40, stop=("<end>",), seed=3),
    reasoning=Reasoning(budget_tokens=9000),
    format=Format(SCHEMA, "plan", "A plan.", strict=True),
    user="dev-7",
    logprobs=True,
    top_logprobs=3,
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


def body_of(*items: Mapping[str, object], **more: object) -> bytes:
    """A request."""
    return msgspec.json.encode({"model": "m", "input": list(items), **more})


def judged(prompt: Prompt) -> Any:
    """What is written of a prompt, after OpenAI's own types have read it completely."""
    payload = msgspec.json.decode(responses.write_request(msgspec.structs.replace(prompt, stream=True)).body)
    told = REQUEST.validate_python(payload)
    list(told["input"])  # it is validated while it is read
    list(told.get("tools", ()))
    return payload


def test_a_golden_request() -> None:
    """What Codex sends is read completely: tools in groups and inside the input, calls of them, sealed thoughts."""
    assert plain(responses.read_request((GOLDEN / "codex_request.json").read_bytes())) == plain(CODEX)


def test_written_and_read_again_is_the_same() -> None:
    """Nothing that this dialect knows changes on the way out and in; the instructions become one text."""
    joined = Text("\n\n".join(text.text for text in CODEX.instructions))
    known = msgspec.structs.replace(CODEX, instructions=(joined,), extras={}, dropped=())
    written = responses.write_request(known)
    assert written.lost == ()
    assert plain(responses.read_request(written.body)) == plain(known)


def test_a_request_is_written_as_openai_defines_it() -> None:
    """OpenAI's own types accept what is written, groups of tools included."""
    payload = judged(CODEX)
    assert [tool["type"] for tool in payload["tools"]] == ["function", "namespace", "web_search", "namespace"]
    assert [item["type"] for item in payload["input"]] == [
        "message", "reasoning", "message", "function_call", "function_call", "custom_tool_call",
        "function_call_output", "function_call_output", "custom_tool_call_output", "message", "message",
    ]  # fmt: skip
    assert payload["input"][4]["namespace"] == "multi_agent_v1"
    assert payload["store"] is False


def test_a_foreign_prompt_is_written_as_openai_defines_it() -> None:
    """What comes from another dialect is said in this one's words, and what cannot be said is named."""
    payload = judged(FOREIGN)
    assert payload["instructions"] == "You are a coding agent.\n\nBe brief."
    assert [part["type"] for part in payload["input"][0]["content"]] == [
        "input_text", "input_file", "input_file", "input_text", "input_image",
    ]  # fmt: skip
    assert payload["input"][0]["content"][2]["file_data"] == "data:application/pdf;base64,JVBERi0="
    assert payload["input"][2]["content"] == [{"type": "refusal", "refusal": "I can't."}]
    assert payload["tools"] == [
        {
            "type": "function",
            "name": "read_file",
            "description": "Reads.",
            "parameters": msgspec.json.decode(SCHEMA),
            "strict": False,
        }
    ]
    assert payload["tool_choice"] == {"type": "function", "name": "read_file"}
    assert payload["reasoning"] == {"effort": "medium"}
    assert payload["text"]["format"]["name"] == "plan"
    assert payload["include"] == ["message.output_text.logprobs", "reasoning.encrypted_content"]
    lost = responses.write_request(FOREIGN).lost
    assert set(lost) == {"cache_control", "is_error", "seed", "stop", "thinking", "tools.bash_20250124", "top_k"}


def test_chat_s_grammar_is_said_in_this_dialect_s_shape() -> None:
    """Chat keeps a grammar one level deeper."""
    told = msgspec.Raw(b'{"type":"grammar","grammar":{"syntax":"regex","definition":"a+"}}')
    prompt = Prompt("m", (Turn("user", (Text("x"),)),), tools=(Tool("p", custom=True, format=told),))
    assert judged(prompt)["tools"][0]["format"] == {"type": "grammar", "syntax": "regex", "definition": "a+"}


WORDS = st.text(min_size=1, max_size=12)
TEXTS = st.builds(Text, WORDS)
PICTURES = st.builds(Image, url=st.just("https://example.com/x.png"), detail=st.sampled_from(["low", "auto"]))
FILES = st.builds(Document, data=st.just("QQ=="), media_type=st.just("text/plain"), name=WORDS)
CALLS = st.builds(ToolCall, WORDS, st.sampled_from(["run", "agents__stop", "other"]), WORDS)
CUSTOM_CALLS = st.builds(ToolCall, WORDS, st.just("patch"), WORDS, st.just(value=True))
THOUGHTS = st.builds(Thinking, st.just("") | WORDS, encrypted=WORDS, summary=st.lists(WORDS, max_size=2).map(tuple))
CONTENT = st.one_of(
    TEXTS.map(lambda text: (text,)), st.just(()), st.lists(TEXTS | PICTURES, min_size=2, max_size=3).map(tuple)
)
RESULTS = st.builds(ToolResult, WORDS, CONTENT, custom=st.booleans())


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Turn, ...]:
    """Turns of a user and a model, in turn, with new instructions on the way."""
    turns: list[Turn] = []
    for _ in range(draw(st.integers(0, 3))):
        user: list[Block] = draw(st.lists(TEXTS | PICTURES | FILES | RESULTS, min_size=1, max_size=4))
        model: list[Block] = draw(
            st.lists(TEXTS | CALLS | CUSTOM_CALLS | THOUGHTS | st.builds(Refused, WORDS), min_size=1, max_size=4)
        )
        turns += [Turn("user", tuple(user)), Turn("assistant", tuple(model))]
        if draw(st.booleans()):
            turns.append(Turn("developer", (draw(TEXTS),)))
    return tuple(turns)


TOOLS = (
    Tool("run", "Runs.", SCHEMA, strict=True),
    Tool("patch", custom=True, format=GRAMMAR),
    Tool("stop", "Stops.", SCHEMA, strict=False, namespace="agents"),
)
PROMPTS = st.builds(
    Prompt,
    model=WORDS,
    instructions=TEXTS.map(lambda text: (text,)) | st.just(()),
    turns=conversations(),
    stream=st.booleans(),
    tools=st.just(TOOLS),
    tool_choice=st.sampled_from(
        [
            None,
            ToolChoice("none"),
            ToolChoice("required"),
            ToolChoice("named", "patch"),
            ToolChoice("named", "agents__stop"),
        ]
    ),
    parallel_tools=st.none() | st.booleans(),
    max_output_tokens=st.none() | st.integers(1, 1 << 20),
    sampling=st.builds(Sampling, temperature=st.none() | st.floats(0, 2), top_p=st.none() | st.floats(0, 1)),
    reasoning=st.none() | st.builds(Reasoning, effort=st.sampled_from(sorted(set(Effort) - {Effort.NONE}))),
    format=st.none() | st.just(Format()) | st.just(Format(SCHEMA, "plan", strict=True)),
    user=st.none() | WORDS,
    logprobs=st.booleans(),
)


@given(PROMPTS)
def test_written_and_read_again_is_the_same_for_any_prompt(prompt: Prompt) -> None:
    """Writing and reading is the identity on everything that the dialect knows."""
    written = responses.write_request(prompt)
    assert written.lost == ()
    assert plain(responses.read_request(written.body)) == plain(prompt)


def test_what_clients_replay() -> None:
    """The AI SDK replays thoughts without an id and bare texts, and sends tools without strict."""
    prompt = responses.read_request(
        body_of(
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Hi"},
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAAAABo-fake"},
            {"role": "assistant", "content": [{"type": "output_text", "text": "Yes."}]},
            {"type": "output_text", "text": "And no."},
            {"type": "input_text", "text": "Which?"},
            tools=[{"type": "function", "name": "f", "parameters": None}],
        )
    )
    assert prompt.instructions == (Text("Be brief."),)
    assert prompt.turns[0] == Turn("user", (Text("Hi"),))
    assert prompt.turns[1].blocks == (Thinking(encrypted="gAAAAABo-fake"), Text("Yes."), Text("And no."))
    assert prompt.turns[2].blocks == (Text("Which?"),)
    assert prompt.tools == (Tool("f"),)


def test_the_input_may_be_one_text() -> None:
    """The shortest request there is."""
    assert responses.read_request(b'{"model":"m","input":"Hi"}').turns == (Turn("user", (Text("Hi"),)),)


def test_what_one_provider_remembers_is_a_pin() -> None:
    """What refers to a provider's memory is named, and can be written nowhere; the defaults name nothing."""
    pins = {
        "previous_response_id": "resp_1",
        "conversation": {"id": "conv_1"},
        "prompt": {"id": "pmpt_1"},
        "store": True,
        "background": True,
    }
    file = {"role": "user", "content": [{"type": "input_file", "file_id": "file_1"}]}
    prompt = responses.read_request(body_of({"type": "item_reference", "id": "msg_1"}, {"id": "msg_2"}, file, **pins))
    assert set(prompt.pins) == {*pins, "item_reference", "file_id"}
    with pytest.raises(CannotCarry, match="whole conversation"):
        responses.write_request(prompt)
    stateless = responses.read_request(body_of(store=False, background=False, previous_response_id=None))
    assert stateless.pins == ()
    assert responses.read_request(b'{"model":"m","previous_response_id":"resp_1"}').pins == ("previous_response_id",)


def test_records_of_the_provider_s_own_tools_are_told_as_lost() -> None:
    """What a search found stands in the answer; an item on which the rest depends is refused by its name."""
    prompt = responses.read_request(body_of({"type": "web_search_call", "id": "ws_1", "action": {"type": "search"}}))
    assert prompt.dropped == ("input.web_search_call",)
    assert responses.write_request(prompt).lost == prompt.dropped
    with pytest.raises(CannotCarry, match="compaction") as refused:
        responses.read_request(body_of({"type": "compaction", "encrypted_content": "x"}))
    assert refused.value.param == "input"
    with pytest.raises(CannotCarry, match="input_audio"):
        responses.read_request(body_of({"role": "user", "content": [{"type": "input_audio"}]}))


def test_values_that_say_nothing_are_not_lost() -> None:
    """A default that is spelled out is no loss."""
    told: dict[str, object] = {"metadata": {}, "truncation": "disabled", "service_tier": "auto", "max_tool_calls": None}
    assert responses.read_request(body_of(**told)).extras == {}
    assert list(responses.read_request(body_of(truncation="auto")).extras) == ["truncation"]


FUNCTION = {"type": "function", "name": "f"}
GROUP = {"type": "namespace", "name": "g", "description": "", "tools": [{"type": "function", "name": "h"}]}
HOSTED = {"type": "web_search"}


@pytest.mark.parametrize(
    ("choice", "read", "left"),
    [
        ("auto", ToolChoice("auto"), 3),
        ("required", ToolChoice("required"), 3),
        ({"type": "function", "name": "f"}, ToolChoice("named", "f"), 3),
        ({"type": "function", "name": "h"}, ToolChoice("named", "g__h"), 3),
        ({"type": "function", "name": "unknown"}, ToolChoice("named", "unknown"), 3),
        ({"type": "web_search"}, ToolChoice("named", "web_search", server=True), 3),
        ({"type": "allowed_tools", "mode": "required", "tools": [FUNCTION]}, ToolChoice("required"), 1),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "namespace", "name": "g"}]},
            ToolChoice("auto"),
            1,
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [HOSTED, {"type": "function", "name": "h"}]},
            ToolChoice("auto"),
            2,
        ),
    ],
)
def test_choices_of_tools(choice: object, read: ToolChoice, left: int) -> None:
    """Each way of choosing is read; a choice of several leaves only those."""
    prompt = responses.read_request(body_of(tools=[FUNCTION, GROUP, HOSTED], tool_choice=choice))
    assert prompt.tool_choice == read
    assert len(prompt.tools) == left


def test_forcing_a_tool_that_nobody_here_runs_is_refused() -> None:
    """A foreign tool is left out when it is offered, and refused by name when it is forced; an own one is passed on."""
    turn = Turn("user", (Text("x"),))
    foreign = ServerTool("web_search_20250305", msgspec.Raw(b'{"type":"web_search_20250305","name":"web_search"}'))
    forced = Prompt("m", (turn,), tools=(foreign,), tool_choice=ToolChoice("named", "web_search_20250305", server=True))
    with pytest.raises(CannotCarry, match="web_search_20250305") as refused:
        responses.write_request(forced)
    assert refused.value.param == "tool_choice"
    own = Prompt("m", (turn,), tools=(SEARCH,), tool_choice=ToolChoice("named", "web_search", server=True))
    assert msgspec.json.decode(responses.write_request(own).body)["tool_choice"] == {"type": "web_search"}


def test_several_answers_are_refused() -> None:
    """This dialect has one answer."""
    with pytest.raises(CannotCarry) as refused:
        responses.write_request(Prompt("m", (Turn("user", (Text("x"),)),), choices=2))
    assert refused.value.param == "n"


def test_a_later_tool_replaces_one_of_the_same_name() -> None:
    """Providers refuse two tools of one name; tools inside the input come later."""
    more = {"type": "additional_tools", "role": "developer", "tools": [FUNCTION | {"description": "newer"}]}
    prompt = responses.read_request(body_of(more, tools=[FUNCTION]))
    assert prompt.tools == (Tool("f", "newer"),)


def test_a_user_that_is_too_long_is_left_out() -> None:
    """OpenAI takes 128 characters."""
    turn = Turn("user", (Text("x"),))
    assert responses.write_request(Prompt("m", (turn,), user="u" * 129)).lost == ("user",)


def test_bodies_that_are_responses_requests() -> None:
    """A body with input and without messages is one, whatever the path it came on."""
    input_, messages = msgspec.Raw(b'"x"'), msgspec.Raw(b"[]")
    assert responses.looks_like_responses({"input": input_})
    assert not responses.looks_like_responses({"messages": messages})
    assert not responses.looks_like_responses({"input": input_, "messages": messages})


@pytest.mark.parametrize(
    ("body", "words"),
    [
        pytest.param(b"[]", "object", id="no object"),
        pytest.param(b'{"model":"m"}', "no input", id="no input"),
        pytest.param(b'{"input":5}', "input", id="input of another type"),
        pytest.param(body_of({"role": "wizard", "content": "x"}), "role", id="unknown role"),
        pytest.param(body_of({"role": "user", "content": 5}), "input", id="content of another type"),
        pytest.param(b'{"input":[null]}', "null", id="null for an item"),
        pytest.param(body_of(temperature="hot"), "temperature", id="words for a number"),
        pytest.param(body_of(tool_choice="sometimes"), "tool_choice", id="unknown choice"),
        pytest.param(b'{"input":"\\ud83d"}', "JSON", id="half of a surrogate pair"),
        pytest.param(b'{"input":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "JSON", id="nested too deeply"),
        pytest.param(body_of(tools=[GROUP | {"tools": [GROUP]}]), "group", id="a group inside a group"),
    ],
)
def test_bad_requests_are_told_in_a_sentence(body: bytes, words: str) -> None:
    """What cannot be read is one kind of error, which names the fault."""
    with pytest.raises(WireError, match=words):
        responses.read_request(body)


NAMES = ("input", "role", "content", "type", "tools", "summary", "output", "text", "name", "arguments", "image_url")
KINDS = ("message", "reasoning", "function_call", "function_call_output", "input_image", "namespace", "user", "custom")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=15,
)


@given(
    st.binary(max_size=60)
    | st.tuples(JSON, JSON, JSON).map(
        lambda values: msgspec.json.encode(
            {
                "input": values[0],
                "tools": values[1],
                "tool_choice": values[2],
                "text": values[1],
                "reasoning": values[2],
            }
        )
    )
    | st.lists(st.fixed_dictionaries({"type": st.sampled_from(KINDS), "content": JSON, "output": JSON})).map(
        lambda items: msgspec.json.encode({"input": items})
    )
)
def test_nothing_but_a_wire_error(body: bytes) -> None:
    """Whatever comes is read, or refused with the one kind of error."""
    with contextlib.suppress(WireError):
        prompt = responses.read_request(body)
        responses.echo_of(prompt, body)
        responses.write_request(prompt)
