"""The key of a conversation: the same from its first turn to its last, another for every other conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from eggpool.errors import BadRequest
from eggpool.wire import envelope
from eggpool.wire.conversation import HEADERS, KEY_BYTES, conversation_key
from eggpool.wire.leading import WINDOW_BYTES, opening

SESSION = "0198c7a2-1111-4abc-8def-0123456789ab"
OTHER_SESSION = "0198c7a2-2222-4abc-8def-0123456789ab"
DIALECTS = ("chat", "messages", "responses")
MARK = {"cache_control": {"type": "ephemeral"}}

TEXT = st.text(min_size=1, max_size=20)
PROSE = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20)


def headers(*pairs: tuple[str, str]) -> dict[bytes, bytes]:
    """Headers as the server gives them, with some that name nothing."""
    named = {name.encode(): value.encode("latin-1") for name, value in pairs}
    return {b"host": b"127.0.0.1", **named, b"x-request-id": b"1"}


def key(body: dict[str, Any] | None = None, *pairs: tuple[str, str], client: str = "default", model: str = "m") -> Any:
    """The key of a request with that body and those headers."""
    sent = json.dumps({"model": model, **(body or {})}, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return conversation_key(client, headers(*pairs), envelope.read(sent))


def written(text: str, *, as_list: bool, mark: bool, kind: str) -> Any:
    """A content: a text, or a list with it, which may carry a cache mark."""
    if not as_list:
        return text
    half = len(text) // 2
    last = {"type": kind, "text": text[half:], **(MARK if mark else {})}
    return [{"type": kind, "text": text[:half]}, last] if half else [last]


def body(dialect: str, system: str, first: str, turns: int, *, as_list: bool, mark: bool) -> dict[str, Any]:
    """A conversation after so many turns, in one dialect; cache marks stand as they would at that turn."""
    kind = "input_text" if dialect == "responses" else "text"

    def content(text: str, *, marked: bool) -> Any:
        return written(text, as_list=as_list, mark=mark and marked, kind=kind)

    talk: list[dict[str, Any]] = [{"role": "user", "content": content(first, marked=turns == 0)}]
    for turn in range(turns):
        talk += [
            {"role": "assistant", "content": f"answer {turn}"},
            {"role": "user", "content": content(f"question {turn}", marked=turn == turns - 1)},
        ]
    if dialect == "messages":
        return {"system": content(system, marked=True), "messages": talk}
    if dialect == "chat":
        return {"messages": [{"role": "system", "content": content(system, marked=turns % 2 == 0)}, *talk]}
    if turns == 0 and not as_list:
        return {"instructions": system, "input": first}
    return {"instructions": system, "input": [{"type": "message", **message} for message in talk]}


@given(
    st.sampled_from(DIALECTS), PROSE, PROSE, st.integers(0, 8), st.booleans(), st.booleans(), st.booleans(), st.text()
)
def test_a_conversation_keeps_its_key_as_it_grows(
    dialect: str, system: str, first: str, turns: int, as_list: bool, was_list: bool, mark: bool, other: str
) -> None:
    """Neither further turns, nor moved cache marks, nor a text written as a list of parts change the key."""
    began = key(body(dialect, system, first, 0, as_list=was_list, mark=mark))
    grown = key(body(dialect, system, first, turns, as_list=as_list, mark=not mark))
    assert began == grown
    assert len(began) == KEY_BYTES


@given(st.sampled_from(DIALECTS), PROSE, PROSE, PROSE, st.integers(0, 3), st.booleans())
def test_another_first_message_is_another_conversation(
    dialect: str, system: str, first: str, second: str, turns: int, as_list: bool
) -> None:
    """Two conversations under the same instructions differ by the user's first message."""
    assume(first != second)
    one = key(body(dialect, system, first, turns, as_list=as_list, mark=False))
    two = key(body(dialect, system, second, turns, as_list=as_list, mark=False))
    assert one != two


@given(st.sampled_from(DIALECTS), PROSE, PROSE, st.integers(0, 3), st.booleans(), st.sampled_from([None, 1]))
def test_how_the_json_is_written_does_not_matter(
    dialect: str, system: str, first: str, turns: int, ascii_only: bool, indent: int | None
) -> None:
    """Escapes and white space between the tokens are no part of a conversation."""
    said = {"model": "m", **body(dialect, system, first, turns, as_list=True, mark=True)}
    sent = envelope.read(json.dumps(said, ensure_ascii=ascii_only, indent=indent).encode())
    assert conversation_key("default", {}, sent) == key(said)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_instructions_tell_apart_too(dialect: str) -> None:
    """The title of a conversation is made under other instructions: that is a conversation of its own."""
    one = key(body(dialect, "Write code.", "hello", 1, as_list=False, mark=False))
    assert one != key(body(dialect, "Write a title.", "hello", 1, as_list=False, mark=False))
    assert one != key(body(dialect, "", "Write code.hello", 1, as_list=False, mark=False))


@pytest.mark.parametrize("length", [5_000, 20_000, 60_000, 70_000, 400_000])
@pytest.mark.parametrize("dialect", DIALECTS)
def test_long_texts(dialect: str, length: int) -> None:
    """A first message of any length keeps its key over the turns, and its beginning tells it apart."""
    prompt = "".join(f'line {number}: "\\n" é\n' for number in range(length // 16))
    made = [key(body(dialect, "s" * 20_000, prompt, turns, as_list=True, mark=True)) for turns in (0, 1, 40)]
    assert len(set(made)) == 1
    assert made[0] != key(body(dialect, "s" * 20_000, "x" + prompt, 1, as_list=True, mark=True))
    assert made[0] == key(body(dialect, "s" * 20_000, prompt, 2, as_list=True, mark=False))


def test_both_ends_of_a_text_count() -> None:
    """Agents put the same long reminders before what the user really asks."""
    reminder = "remember " * 3000
    one, two = (
        key({"messages": [{"role": "user", "content": [{"text": reminder}, {"text": asked}]}]}) for asked in "ab"
    )
    assert one != two


def test_text_alone_counts() -> None:
    """Images, tool results, and who else speaks before the user change nothing."""
    plain = key({"messages": [{"role": "user", "content": "look"}]})
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    assert plain == key({"messages": [{"role": "user", "content": [image, {"type": "text", "text": "look"}]}]})
    assert plain == key(
        {"messages": [{"role": "assistant", "content": "hi"}, {"role": "user", "content": [{"text": "look"}, image]}]}
    )


def test_the_billing_text_of_claude_code_does_not_count() -> None:
    """Its first system text may change from turn to turn."""
    said = {"messages": [{"role": "user", "content": "hello"}]}
    one, two, none = (
        key({"system": [{"type": "text", "text": text}, {"type": "text", "text": "Be good."}], **said})
        for text in ("x-anthropic-billing-header: cc_version=1", "x-anthropic-billing-header: cc_version=2", "")
    )
    assert one == two == none


def test_a_beginning_that_is_too_long_is_told_by_its_instructions() -> None:
    """What begins beyond the window is not read."""
    for length, count in ((WINDOW_BYTES + 10, 1), (WINDOW_BYTES // 2, 2)):
        talk = [{"role": "system", "content": "s" * length}] * count
        one, two = (key({"messages": [*talk, {"role": "user", "content": text}]}) for text in "ab")
        assert one == two is not None


def test_what_cannot_be_decoded_is_read_as_it_stands() -> None:
    """Half of a surrogate pair, or bytes that are no UTF-8, do not hide the beginning."""
    for odd in (b"\\ud83d", b"\xff"):
        made = {
            conversation_key(
                "c",
                {},
                envelope.Envelope(body, {"messages": (0, len(body))}, "m", stream=False),
            )
            for text in (b"one", b"two")
            for later in (b"", b',{"role":"assistant","content":"x"}')
            for body in (b'[{"role":"user","content":"' + text + odd + b'"}' + later + b"]",)
        }
        assert len(made) == 2
        assert None not in made


@pytest.mark.parametrize("name", [header.decode() for header in HEADERS])
def test_headers_that_name_a_conversation(name: str) -> None:
    """A name in a header is the key, whatever the body says, and two names are two keys."""
    one = key({"messages": [{"role": "user", "content": "a"}]}, (name, SESSION))
    assert one == key({"input": "b", "prompt_cache_key": OTHER_SESSION}, (name, SESSION))
    assert one != key({"messages": [{"role": "user", "content": "a"}]}, (name, OTHER_SESSION))
    assert SESSION.encode() not in one
    # A multipart form has no envelope.
    form = conversation_key("default", headers((name, SESSION)), None)
    assert form is not None
    assert form != conversation_key("default", headers((name, OTHER_SESSION)), None)


def test_the_finest_name_counts() -> None:
    """Codex gives a subagent a thread of its own within the session, Claude Code an agent's id beside it."""
    main = key({}, ("session-id", SESSION), ("thread-id", SESSION))
    assert main != key({}, ("session-id", SESSION), ("thread-id", OTHER_SESSION))
    assert main == key({}, ("thread-id", SESSION), ("session-id", OTHER_SESSION))
    claude = key({}, ("x-claude-code-session-id", SESSION))
    agents = [
        key({}, ("x-claude-code-session-id", SESSION), ("x-claude-code-agent-id", agent)) for agent in ("a1", "a2")
    ]
    assert len({claude, *agents}) == 3


@pytest.mark.parametrize(
    "named",
    [
        lambda session: {"metadata": {"user_id": f"user_{'a' * 64}_account__session_{session}"}},
        lambda session: {"metadata": {"user_id": f"user_{'a' * 64}_account_{OTHER_SESSION}_session_{session}"}},
        lambda session: {"metadata": {"user_id": json.dumps({"device_id": "d", "session_id": session})}},
        lambda session: {"metadata": {"session_id": session}},
        lambda session: {"session_id": session},
        lambda session: {"conversation": session},
        lambda session: {"conversation": {"id": session}},
        lambda session: {"prompt_cache_key": session},
        lambda session: {"prompt_cache_key": "ses_" + session.replace("-", "")},
    ],
)
def test_fields_that_name_a_conversation(named: Any) -> None:
    """A name in a field is the key, whatever the messages say, and two names are two keys."""
    one, same = (key({**named(SESSION), "input": text}) for text in ("a", "b"))
    assert one == same is not None
    assert one != key({**named(OTHER_SESSION), "input": "a"})


@pytest.mark.parametrize(
    "named",
    [
        {"metadata": {"user_id": "user-17"}},
        {"metadata": {"user_id": SESSION}},
        {"metadata": {"user_id": "{}"}},
        {"metadata": {"user_id": "{"}},
        {"metadata": None},
        {"metadata": {"session_id": ""}},
        {"conversation": None},
        {"user": "someone"},
        {"prompt_cache_key": ""},
        {"prompt_cache_key": "my-application"},
    ],
)
def test_what_names_a_user_or_a_program_is_not_a_conversation(named: dict[str, Any]) -> None:
    """The beginning tells the conversations of one user, or of one program, apart."""
    one, two = (key({**named, "messages": [{"role": "user", "content": text}]}) for text in "ab")
    assert one != two
    assert None not in (one, two)


def test_clients_and_models_do_not_meet() -> None:
    """The same name from another client, or for another model, is another conversation."""
    made = {
        key({}, ("x-session-id", "1"), client=client, model=model)
        for client in ("one", "two")
        for model in ("one", "two")
    }
    assert len(made) == 4
    # Where one ends and the next begins counts as well.
    assert key({}, ("x-session-id", "1"), client="a", model="bc") != key(
        {}, ("x-session-id", "1"), client="ab", model="c"
    )


def test_nothing_to_tell_by() -> None:
    """Without a name or a text there is no key; a later turn that holds only itself is no beginning."""
    assert key({}) is None
    assert key({"messages": []}) is None
    assert key({"messages": [{"role": "user", "content": [{"type": "image"}]}]}) is None
    assert key({"input": "go on", "previous_response_id": "resp_1"}) is None
    assert key({}, ("x-session-id", "")) is None
    assert conversation_key("c", {}, None) is None


WORDS = [b"\\ud83d", b"\xff", b"\x00", b"1", b"null", b'"role":', b'"user"', b'"system"', b'"content":', b'"text":']
JSON_BYTES = st.sampled_from([*WORDS, *(b'"', b"\\", b"[", b"]", b"{", b"}", b",", b":", b" ", b"\n"), b'"type":'])
VALUES = st.recursive(
    st.none() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner)
        | st.dictionaries(st.sampled_from(["role", "content", "text", "type", "id", "user_id", "session_id"]), inner)
    ),
    max_leaves=20,
)


@given(st.lists(JSON_BYTES | st.binary(max_size=4), max_size=30).map(b"".join), st.binary(max_size=20))
@example(b"[" * 5000, b"")
@example(b'{"a":' * 5000, b"")
def test_no_bytes_are_refused(value: bytes, header: bytes) -> None:
    """Whatever stands in a field or a header, there is a key or none, and never an error."""
    for field in ("messages", "input", "system", "instructions", "metadata", "prompt_cache_key", "conversation"):
        sent = envelope.Envelope(b'{"x":' + value + b"}", {field: (5, 5 + len(value))}, "m", stream=False)
        found = conversation_key("c", {header: header, b"x-claude-code-agent-id": header}, sent)
        assert found is None or len(found) == KEY_BYTES
        opening(sent)


@given(VALUES)
def test_no_shape_is_refused(value: Any) -> None:
    """Whatever shape a field has, there is a key or none, and never an error."""
    for field in ("messages", "input", "system", "metadata", "prompt_cache_key", "conversation", "session_id"):
        try:
            found = key({field: value})
        except BadRequest:  # a lone surrogate, which the envelope refuses
            continue
        assert found is None or len(found) == KEY_BYTES
