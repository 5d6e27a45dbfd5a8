"""Messages requests to prompts and back."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from tests.wire.messages.judge import GOLDEN, judged_request, raw_of

from eggpool.errors import WireError
from eggpool.wire.messages import read_request, write_request
from eggpool.wire.messages.request import DEFAULT_MAX_TOKENS
from eggpool.wire.prompt import (
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

HELLO = (Turn("user", (Text("Hello"),)),)
NOTE = Tool("note", parameters=raw_of({"type": "object", "properties": {}}))
CALL = ToolCall("call_1", "note", '{"a": 1}')
RESULT = ToolResult("call_1", (Text("done"),))


def golden(name: str) -> bytes:
    """A request as a client sends it."""
    return (GOLDEN / f"{name}.request.json").read_bytes()


def read(**fields: Any) -> Prompt:
    """The prompt of a small request with these fields."""
    body = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hello"}], **fields}
    return read_request(json.dumps(body).encode())


def read_content(*blocks: Any, role: str = "user") -> Prompt:
    """The prompt of a request with one message."""
    return read(messages=[{"role": role, "content": list(blocks)}])


def write(prompt: Prompt, lost: tuple[str, ...] = (), *, output_limit: int | None = None) -> dict[str, Any]:
    """A prompt as a request that the SDK finds right, when exactly that is lost."""
    written = write_request(prompt, output_limit=output_limit)
    assert written.lost == lost
    return judged_request(written.body)


def ask(**fields: Any) -> Prompt:
    """A small prompt with these fields."""
    return Prompt(**({"model": "some-model", "turns": HELLO} | fields))


# --- reading --------------------------------------------------------------------------------------------------------


def test_reads_what_claude_code_sends() -> None:
    """Everything that Claude Code says in a turn has its place in the prompt."""
    prompt = read_request(golden("claude_code"))
    assert prompt.model == "gpt-4o-mini"
    assert prompt.stream
    assert prompt.max_output_tokens == 32000
    assert prompt.instructions == (
        Text("x-anthropic-billing-header: cc_version=2.1.197; cc_entrypoint=sdk-cli;"),
        Text("You are Claude Code, Anthropic's official CLI for Claude.", CacheMark()),
        Text("You are an interactive agent that helps users.", CacheMark("1h")),
    )
    assert [turn.role for turn in prompt.turns] == ["user", "system", "assistant", "user"]
    assert prompt.turns[1].blocks == (Text("You are powered by the model gpt-4o-mini."),)
    assert prompt.turns[2].blocks == (
        Thinking("Two tools at once.", signature="EqMBCkYIBBgCKkDa8xAg"),
        Text("I will run them."),
        ToolCall("toolu_01A09q90qw90lq917835lq9", "Bash", '{"command": "make test", "timeout": 600000}'),
        ToolCall("toolu_01B09q90qw90lq917835lq9", "Read", '{"file_path": "/home/me/shot.png"}'),
    )
    failed, shown = prompt.turns[3].blocks
    assert failed == ToolResult(
        "toolu_01A09q90qw90lq917835lq9", (Text("Exit code 2\nmake: *** [test] Error 1"),), failed=True
    )
    assert isinstance(shown, ToolResult)
    assert shown.failed is None
    assert shown.cache == CacheMark()
    (image,) = shown.content
    assert isinstance(image, Image)
    assert image.media_type == "image/png"
    bash, reader, search = prompt.tools
    assert isinstance(bash, Tool)
    assert bash.name == "Bash"
    assert bash.parameters is not None
    assert json.loads(bytes(bash.parameters))["properties"]["timeout"] == {"type": "number", "maximum": 600000}
    assert isinstance(reader, Tool)
    assert reader.cache == CacheMark()
    assert isinstance(search, ServerTool)
    assert search.type == "web_search_20250305"
    assert prompt.user == '{"device_id":"d0","session_id":"s0"}'
    assert prompt.reasoning == Reasoning(effort=Effort.HIGH, adaptive=True)
    assert prompt.extras.keys() == {"context_management"}
    assert prompt.pins == prompt.dropped == ()


def test_reads_documents_and_structured_output() -> None:
    """Files, sampling, a forced choice and a schema are read."""
    prompt = read_request(golden("documents"))
    assert prompt.turns[0].blocks == (
        Document(data="JVBERi0xLjQK", media_type="application/pdf", name="Offer"),
        Document(text="Plain words.", media_type="text/plain"),
        Document(url="https://example.com/a.pdf"),
        Image(url="https://example.com/a.jpg", cache=CacheMark("5m")),
        Text("How many?"),
    )
    assert prompt.turns[1].blocks == (Thinking(redacted="EmwKAhgBEgy3va3pzix"), Text("{"))
    assert prompt.sampling == Sampling(temperature=0.5, top_k=40, stop=("\n\nHuman:",))
    assert prompt.tool_choice == ToolChoice("required")
    assert prompt.parallel_tools is False
    assert prompt.format is not None
    assert prompt.format.schema is not None
    assert json.loads(bytes(prompt.format.schema))["required"] == ["n"]


@pytest.mark.parametrize(
    ("fields", "reasoning"),
    [
        ({}, None),
        ({"thinking": {"type": "disabled"}}, Reasoning(enabled=False)),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, Reasoning(budget_tokens=31999)),
        ({"thinking": {"type": "adaptive"}}, Reasoning(adaptive=True)),
        ({"thinking": {"type": "between_tools"}}, Reasoning(adaptive=True)),
        ({"thinking": {"type": "adaptive", "display": "summarized"}}, Reasoning(adaptive=True, summary="auto")),
        ({"output_config": {"effort": "medium"}}, Reasoning(effort=Effort.MEDIUM)),
        ({"output_config": {"effort": "max"}}, Reasoning(effort=Effort.XHIGH)),
    ],
)
def test_reads_how_to_think(fields: dict[str, Any], reasoning: Reasoning | None) -> None:
    """Each way of asking for thoughts is known."""
    assert read(**fields).reasoning == reasoning


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice("auto")),
        ({"type": "any"}, ToolChoice("required")),
        ({"type": "none"}, ToolChoice("none")),
        ({"type": "tool", "name": "note"}, ToolChoice("named", "note")),
        ({"type": "tool", "name": "web_search"}, ToolChoice("named", "web_search_20250305", server=True)),
    ],
)
def test_reads_tool_choices(choice: dict[str, Any], expected: ToolChoice) -> None:
    """A choice names a tool of the client, or one that the provider runs."""
    tools = [{"name": "note", "input_schema": {}}, {"type": "web_search_20250305", "name": "web_search"}]
    assert read(tools=tools, tool_choice=choice).tool_choice == expected


def test_names_what_has_no_place() -> None:
    """Results of the provider's own tools, citations and hints for its tools are named, not lost in silence."""
    prompt = read(
        messages=[
            {"role": "user", "content": "Look"},
            {
                "role": "assistant",
                "content": [
                    {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {"query": "x"}},
                    {"type": "web_search_tool_result", "tool_use_id": "s", "content": [{"type": "web_search_result"}]},
                    {"type": "text", "text": "Found.", "citations": [{"type": "char_location"}]},
                ],
            },
        ],
        tools=[{"name": "note", "input_schema": {}, "defer_loading": True, "input_examples": [{}]}],
        output_config={"task_budget": {"type": "tokens", "total": 1}},
    )
    assert prompt.turns[1].blocks == (Text("Found."),)
    assert prompt.dropped == (
        "server_tool_use",
        "web_search_tool_result",
        "citations",
        "tools.defer_loading",
        "tools.input_examples",
        "output_config.task_budget",
    )


def test_reads_search_results_and_references_as_text() -> None:
    """What only this dialect has a block for, but is text, stays as text."""
    found = {"type": "search_result", "title": "T", "source": "s", "content": [{"type": "text", "text": "words"}]}
    assert read_content(found).turns[0].blocks == (Text("T - s\nwords"),)
    result = {"type": "tool_result", "tool_use_id": "c", "content": [{"type": "tool_reference", "tool_name": "note"}]}
    assert read_content(result).turns[0].blocks == (ToolResult("c", (Text("The tool note is available."),)),)
    inner = {"type": "content", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert read_content({"type": "document", "source": inner}).turns[0].blocks == (Document(text="a\nb"),)


@pytest.mark.parametrize(
    ("prompt", "pin"),
    [
        (lambda: read(container="container_1"), "container"),
        (lambda: read_content({"type": "image", "source": {"type": "file", "file_id": "file_1"}}), "file_id"),
        (lambda: read_content({"type": "container_upload", "file_id": "file_1"}), "file_id"),
    ],
)
def test_what_only_the_provider_knows_pins(prompt: Any, pin: str) -> None:
    """Uploaded files and containers bind a request to its provider."""
    assert prompt().pins == (pin,)


def test_a_leading_system_message_is_an_instruction() -> None:
    """A system message before all turns joins the system prompt; one between them stays where it is."""
    prompt = read(
        system="One.",
        messages=[{"role": "system", "content": "Two."}, {"role": "user", "content": "Hi"}],
    )
    assert prompt.instructions == (Text("One."), Text("Two."))
    assert [turn.role for turn in prompt.turns] == ["user"]


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": None},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "user", "content": 5}]},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
        {"messages": [{"role": "user", "content": [{"text": "no type"}]}]},
        {"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": "x"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "hologram"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "tool_result", "content": [{"type": "tool_use"}]}]}]},
        {"system": [{"type": "image", "source": {"type": "url", "url": "u"}}]},
        {"max_tokens": -1},
        {"max_tokens": 10**30},
        {"tools": [None]},
        {"tools": {}},
        {"tool_choice": {"type": "whatever"}},
        {"tool_choice": "auto"},
        {"thinking": {"budget_tokens": 5}},
    ],
)
def test_refuses_what_is_no_request(fields: dict[str, Any]) -> None:
    """A body that is no Messages request is refused with a sentence."""
    with pytest.raises(WireError):
        read(**fields)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"messages": [{"role": "assistant", "content": [{"type": "tool_use", "input": {"a": "\xff"}}]}]}',
        b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"messages": [], "temperature": 1e999}',
    ],
)
def test_refuses_strange_bytes(body: bytes) -> None:
    """Whatever bytes come, the only exception is the one that becomes a 400."""
    with pytest.raises(WireError):
        read_request(body)


# --- writing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["claude_code", "documents"])
def test_a_request_means_the_same_when_written_again(name: str) -> None:
    """Reading what was written of a request gives the same prompt, but for the place of a system turn."""
    prompt = read_request(golden(name))
    turns = [turn for turn in prompt.turns if turn.role != "system"]
    prompt = msgspec.structs.replace(prompt, turns=tuple(turns))
    written = write_request(prompt)
    judged_request(written.body)
    assert written.lost == ()
    assert read_request(written.body) == prompt


def test_system_turns_are_marked_in_the_users_turn() -> None:
    """What the operator says in the middle stands at its place, marked, in the user's turn."""
    turns = (
        *HELLO,
        Turn("developer", (Text("Be brief."),)),
        Turn("assistant", (Text("Hi"),)),
        Turn("user", (Text("x"),)),
    )
    messages = write(ask(turns=turns, instructions=(Text("You are X."),)))["messages"]
    assert messages == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hello"},
                {"type": "text", "text": "<system>\nBe brief.\n</system>"},
            ],
        },
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "x"},
    ]


def test_results_stand_first_in_their_turn() -> None:
    """Results of tools begin the turn that follows the calls, whatever stood before them."""
    turns = (*HELLO, Turn("assistant", (CALL,)), Turn("system", (Text("Note."),)), Turn("user", (Text("and"), RESULT)))
    content = write(ask(turns=turns))["messages"][-1]["content"]
    assert [block["type"] for block in content] == ["tool_result", "text", "text"]
    assert content[0] == {"type": "tool_result", "tool_use_id": "call_1", "content": "done"}


def test_sides_take_turns_and_the_user_begins() -> None:
    """Neighbouring turns of one side are one, empty ones are none, and a first answer gets something before it."""
    turns = (
        Turn("assistant", (Text("Hi"),)),
        Turn("user", (Text(" "),)),
        Turn("assistant", (Refused("No."),)),
        Turn("user", (Text("Why"),)),
        Turn("assistant", (Text("Because "),)),
    )
    messages = write(ask(turns=turns))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert messages[1]["content"] == [{"type": "text", "text": "Hi"}, {"type": "text", "text": "No."}]
    assert messages[3]["content"] == "Because"


def test_instructions_alone_become_the_question() -> None:
    """A request without turns asks with its instructions, because this dialect wants a user's message."""
    payload = write(ask(turns=(), instructions=(Text("Say hello."),)))
    assert "system" not in payload
    assert payload["messages"] == [{"role": "user", "content": [{"type": "text", "text": "Say hello."}]}]


def test_cache_marks_are_kept() -> None:
    """Marks stand at texts, calls, results, tools and instructions, as they were."""
    mark, told = CacheMark("1h"), {"type": "ephemeral", "ttl": "1h"}
    turns = (
        Turn("user", (Text("Hello", mark),)),
        Turn("assistant", (msgspec.structs.replace(CALL, cache=mark),)),
        Turn("user", (msgspec.structs.replace(RESULT, cache=CacheMark()),)),
    )
    tool = msgspec.structs.replace(NOTE, cache=mark)
    payload = write(ask(turns=turns, tools=(tool,), instructions=(Text("Be.", mark),)))
    blocks = [message["content"][0] for message in payload["messages"]]
    marked = [*blocks[:2], payload["tools"][0], payload["system"][0]]
    assert [block["cache_control"] for block in marked] == [told] * 4
    assert blocks[2]["cache_control"] == {"type": "ephemeral"}


@pytest.mark.parametrize(
    ("given", "limit", "expected"),
    [(100, 64_000, 100), (None, 64_000, 64_000), (None, None, DEFAULT_MAX_TOKENS)],
)
def test_an_output_limit_is_always_told(given: int | None, limit: int | None, expected: int) -> None:
    """The client's limit, else the model's, else the usual one."""
    assert write(ask(max_output_tokens=given), output_limit=limit)["max_tokens"] == expected


@pytest.mark.parametrize(
    ("model", "reasoning", "thinking", "effort"),
    [
        ("glm-5", Reasoning(effort=Effort.HIGH), {"type": "enabled", "budget_tokens": 16384}, None),
        ("glm-5", Reasoning(effort=Effort.MINIMAL), {"type": "enabled", "budget_tokens": 1024}, None),
        ("glm-5", Reasoning(budget_tokens=5000), {"type": "enabled", "budget_tokens": 5000}, None),
        ("glm-5", Reasoning(effort=Effort.NONE), {"type": "disabled"}, None),
        ("glm-5", Reasoning(enabled=False), {"type": "disabled"}, None),
        ("glm-5", Reasoning(effort=Effort.XHIGH), {"type": "enabled", "budget_tokens": 16000}, None),
        ("claude-sonnet-4-20250514", Reasoning(effort=Effort.LOW), {"type": "enabled", "budget_tokens": 2048}, None),
        ("claude-haiku-4-5", Reasoning(effort=Effort.LOW), {"type": "enabled", "budget_tokens": 2048}, None),
        ("claude-sonnet-4-6", Reasoning(effort=Effort.LOW), {"type": "adaptive"}, "low"),
        ("claude-opus-4-7", Reasoning(budget_tokens=10_000), {"type": "adaptive"}, "medium"),
        ("claude-opus-5-20261101", Reasoning(effort=Effort.XHIGH), {"type": "adaptive"}, "max"),
        ("claude-opus-5", Reasoning(summary="auto"), {"type": "adaptive", "display": "summarized"}, None),
        ("claude-opus-5", Reasoning(effort=Effort.NONE), {"type": "disabled"}, None),
    ],
)
def test_thinking_is_asked_for_as_the_model_takes_it(
    model: str, reasoning: Reasoning, thinking: dict[str, Any], effort: str | None
) -> None:
    """Newer Claude models get an effort, all others a budget that leaves room for an answer."""
    payload = write(ask(model=model, reasoning=reasoning))
    assert payload["thinking"] == thinking
    assert payload.get("output_config", {}).get("effort") == effort


@pytest.mark.parametrize(("limit", "budget"), [(40_000, 16384), (16384, 8192), (1500, 1024), (1025, 1024)])
def test_a_budget_leaves_room_for_the_answer(limit: int, budget: int) -> None:
    """A budget that is not below the client's limit is lowered, never the limit raised."""
    payload = write(ask(max_output_tokens=limit, reasoning=Reasoning(effort=Effort.HIGH)))
    assert payload["max_tokens"] == limit
    assert payload["thinking"]["budget_tokens"] == budget


def test_no_thinking_where_the_api_would_refuse_it() -> None:
    """A limit too small for thoughts, a forced tool, or a loop whose thoughts are missing: the answer comes first."""
    high = Reasoning(effort=Effort.HIGH)
    loop = (*HELLO, Turn("assistant", (CALL,)), Turn("user", (RESULT,)))
    thought = (*HELLO, Turn("assistant", (Thinking("", signature="s"), CALL)), Turn("user", (RESULT,)))
    assert "thinking" not in write(ask(max_output_tokens=1024, reasoning=high), ("reasoning",))
    forced = ask(tools=(NOTE,), tool_choice=ToolChoice("required"), reasoning=high)
    assert "thinking" not in write(forced, ("reasoning",))
    assert "thinking" not in write(ask(model="claude-opus-4-5", turns=loop, reasoning=high), ("reasoning",))
    assert "thinking" in write(ask(model="claude-opus-4-5", turns=thought, reasoning=high))
    assert "thinking" in write(ask(model="claude-opus-4-6", turns=loop, reasoning=high))
    assert "thinking" in write(ask(model="kimi-k3", turns=loop, reasoning=high))


def test_sampling_is_what_the_model_takes() -> None:
    """Temperatures are bounded, and what a generation or thinking forbids is left out and named."""
    both = Sampling(temperature=0.5, top_p=0.9, top_k=7)
    assert write(ask(sampling=both)).items() >= {"temperature": 0.5, "top_p": 0.9, "top_k": 7}.items()
    assert write(ask(sampling=Sampling(temperature=1.5)), ("temperature",))["temperature"] == 1
    assert "top_p" not in write(ask(model="claude-sonnet-4-5", sampling=both), ("top_p",))
    write(ask(model="claude-opus-4-7", sampling=both), ("temperature", "top_p", "top_k"))
    thinks = Reasoning(budget_tokens=2000)
    write(ask(reasoning=thinks, sampling=both), ("temperature", "top_p", "top_k"))
    assert write(ask(reasoning=thinks, sampling=Sampling(top_p=0.97)))["top_p"] == 0.97
    others = Sampling(frequency_penalty=1, presence_penalty=1, seed=1, stop=("\n", "x"))
    assert write(ask(sampling=others), ("frequency_penalty", "presence_penalty", "seed", "stop"))["stop_sequences"] == [
        "x"
    ]


@pytest.mark.parametrize(
    ("choice", "parallel", "expected"),
    [
        (None, None, None),
        (None, True, None),
        (None, False, {"type": "auto", "disable_parallel_tool_use": True}),
        (ToolChoice("auto"), None, {"type": "auto"}),
        (ToolChoice("none"), False, {"type": "none"}),
        (ToolChoice("required"), False, {"type": "any", "disable_parallel_tool_use": True}),
        (ToolChoice("named", "note"), True, {"type": "tool", "name": "note", "disable_parallel_tool_use": False}),
    ],
)
def test_tool_choices_are_written(choice: ToolChoice | None, parallel: bool | None, expected: Any) -> None:
    """The choice and whether several tools may be called stand in one field."""
    assert write(ask(tools=(NOTE,), tool_choice=choice, parallel_tools=parallel)).get("tool_choice") == expected


def test_tools_are_written_in_this_dialects_terms() -> None:
    """A schema is always that of an object, groups are flattened, and free text becomes the one parameter input."""
    tools = (
        Tool("bare"),
        Tool("loose", parameters=raw_of({"properties": {}})),
        Tool("deep", namespace="group", strict=True),
        Tool("apply_patch", "Edits.", custom=True),
    )
    bare, loose, deep, patch = write(ask(tools=tools))["tools"]
    assert bare == {"name": "bare", "input_schema": {"type": "object", "properties": {}}}
    assert loose["input_schema"] == {"type": "object", "properties": {}}
    assert deep["name"] == "group__deep"
    assert deep["strict"] is True
    assert patch["input_schema"]["required"] == ["input"]
    turns = (
        *HELLO,
        Turn("assistant", (ToolCall("c", "apply_patch", "*** Begin", custom=True),)),
        Turn("user", (ToolResult("c", (Text("ok"),), custom=True),)),
    )
    messages = write(ask(turns=turns, tools=tools))["messages"]
    assert messages[1]["content"][0]["input"] == {"input": "*** Begin"}


def test_calls_keep_their_arguments() -> None:
    """Arguments are an object here: none are an empty one, and what is none is refused."""
    empty = (
        *HELLO,
        Turn("assistant", (ToolCall("call:1.x", "note", ""),)),
        Turn("user", (ToolResult("call:1.x", ()),)),
    )
    messages = write(ask(turns=empty))["messages"]
    assert messages[1]["content"] == [{"type": "tool_use", "id": "call_1_x", "name": "note", "input": {}}]
    assert messages[2]["content"] == [{"type": "tool_result", "tool_use_id": "call_1_x"}]
    for arguments in ("[1]", "{", "text"):
        with pytest.raises(CannotCarry):
            write_request(ask(turns=(*HELLO, Turn("assistant", (ToolCall("c", "note", arguments),)))))


def test_images_and_files_are_written() -> None:
    """Pictures by URL or data with a type that is true, files as PDF or text."""
    blocks = (
        Image(url="https://example.com/a.png", detail="high"),
        Image(data="/9j/4AAQ", media_type="image/jpg"),
        Document(data="JVBERi0=", name="a.pdf"),
        Document(data="aGk=", media_type="text/plain"),
        ToolResult("c", (Image(data="iVBORw0K", media_type=None),), failed=False),
    )
    content = write(ask(turns=(Turn("user", blocks),)), ("detail",))["messages"][0]["content"]
    sources = [block["source"] for block in content[1:]]
    assert sources[0] == {"type": "url", "url": "https://example.com/a.png"}
    assert sources[1]["media_type"] == "image/jpeg"
    assert sources[2] == {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="}
    assert sources[3] == {"type": "text", "media_type": "text/plain", "data": "hi"}
    assert content[0]["content"][0]["source"]["media_type"] == "image/png"
    assert content[0]["is_error"] is False
    word = Document(data="UEsDBA==", media_type="application/msword")
    with pytest.raises(CannotCarry):
        write_request(ask(turns=(Turn("user", (word,)),)))


def test_thoughts_of_others_are_left_out() -> None:
    """Only thoughts that the API can verify go back to it."""
    thoughts = (Thinking("words"), Thinking(encrypted="gAAA"), Thinking("mine", signature="s"), Thinking(redacted="r"))
    turns = (*HELLO, Turn("assistant", (*thoughts, Text("Hi"))), Turn("user", (Text("Go on"),)))
    content = write(ask(turns=turns), ("thinking",))["messages"][1]["content"]
    assert [block["type"] for block in content] == ["thinking", "redacted_thinking", "text"]


def test_what_cannot_be_said_is_named() -> None:
    """Fields of other dialects are listed once each, by their names."""
    prompt = ask(
        format=Format(),
        verbosity="low",
        cache_key="k",
        logprobs=True,
        top_logprobs=2,
        extras={"logit_bias": raw_of({}), "speed": raw_of("fast")},
        dropped=("annotations",),
        tools=(ServerTool("web_search", raw_of({"type": "web_search"})), NOTE),
    )
    lost = (
        "annotations", "tools.web_search", "response_format", "verbosity", "prompt_cache_key", "logprobs",
        "top_logprobs", "logit_bias",
    )  # fmt: skip
    payload = write(prompt, lost)
    assert payload["speed"] == "fast"
    assert [tool["name"] for tool in payload["tools"]] == ["note"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"choices": 2}, "n"),
        ({"pins": ("previous_response_id",)}, "previous_response_id"),
        (
            {
                "tools": (ServerTool("web_search", raw_of({"type": "web_search"})),),
                "tool_choice": ToolChoice("named", "web_search", server=True),
            },
            "tool_choice",
        ),
        ({"turns": (Turn("assistant", (Image(url="u"),)),)}, "messages"),
        ({"tools": (Tool("t", parameters=raw_of([])),)}, "tools"),
    ],
)
def test_refuses_what_would_be_answered_wrongly(fields: dict[str, Any], param: str) -> None:
    """Where the answer would be wrong, the request is refused, and the field is named."""
    with pytest.raises(CannotCarry) as refused:
        write_request(ask(**fields))
    assert refused.value.param == param


def test_a_forced_tool_of_the_provider_itself_is_written() -> None:
    """This dialect's own server tools come back as they were, also when they are forced."""
    raw = raw_of({"type": "web_search_20250305", "name": "web_search"})
    prompt = ask(
        tools=(ServerTool("web_search_20250305", raw),),
        tool_choice=ToolChoice("named", "web_search_20250305", server=True),
    )
    payload = write(prompt)
    assert payload["tools"] == [{"type": "web_search_20250305", "name": "web_search"}]
    assert payload["tool_choice"] == {"type": "tool", "name": "web_search"}
