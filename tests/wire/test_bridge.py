"""Custom tools in the disguise of functions."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eggpool.wire import bridge
from eggpool.wire.prompt import Tool

PATCH = '*** Begin Patch\n*** Update File: "ä.py"\n-\told\\n\n+\tnew 🐣\r\n*** End Patch\n'


def in_pieces(arguments: str, cuts: list[int]) -> str:
    unwrapper, out, start = bridge.Unwrapper(), "", 0
    for end in [*sorted(cut % (len(arguments) + 1) for cut in cuts), len(arguments)]:
        out += unwrapper.feed(arguments[start:end])
        start = end
    return out + unwrapper.rest()


def test_wrapped_input_is_a_function_s_arguments() -> None:
    """What a custom tool takes as text stands in the one parameter of the function."""
    assert json.loads(bridge.wrap(PATCH)) == {"input": PATCH}


@given(
    st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\\n🐣')),
    st.lists(st.integers(0, 200), max_size=12),
    st.booleans(),
)
def test_any_text_survives_any_split(text: str, cuts: list[int], ascii_only: bool) -> None:
    """Wrapped text comes out as it went in, in whatever pieces and escapes the arguments come."""
    arguments = json.dumps({"input": text}, ensure_ascii=ascii_only)
    assert bridge.unwrap(arguments) == text
    assert in_pieces(arguments, cuts) == text
    assert in_pieces(arguments, list(range(len(arguments)))) == text


def test_text_is_given_as_it_comes() -> None:
    """The input does not wait for its end."""
    unwrapper = bridge.Unwrapper()
    assert unwrapper.feed('{"inp') == ""
    assert unwrapper.feed('ut": "one') == "one"
    assert unwrapper.feed("\\") == ""
    assert unwrapper.feed("ntwo\\ud83d") == "\ntwo"
    assert unwrapper.feed("\\udc23.") == "🐣."
    assert unwrapper.feed('"') == ""
    assert unwrapper.feed("}") == ""
    assert unwrapper.rest() == ""


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("*** Begin Patch\n", "*** Begin Patch\n"),  # it ignored that there are parameters
        ('{"patch": "a\\nb"}', "a\nb"),  # it named the parameter otherwise
        ('{"why": "because", "input": "a"}', "a"),  # it made up another one, before
        ('{"input": "a", "why": "because"}', "a"),  # and behind
        (' {\n "input" :\t"a"\n}', "a"),
        ('{"input": "one\ntwo"}', "one\ntwo"),  # line ends that should have been escaped
        ('{"input": "cut sho', "cut sho"),
        ('{"input": "cut \\u00', "cut u00"),
        ('{"input": "half \\ud83d"}', "half \ufffd"),
        ('{"input": "half \\ud83d\\n"}', "half \ufffd\n"),
        ('{"input": "half \\ud83d\\u0041"}', "half \ufffdA"),
        ('{"input": "half \\udc23."}', "half \ufffd."),
        ('{"input": "bad \\uzz"}', "bad uzz"),
        ('{"input": 7}', '{"input": 7}'),
        ("{not json", "{not json"),
        ("[1]", "[1]"),
        ("", ""),
        ('{"input": ""}', ""),
    ],
)
def test_what_models_write_instead_is_understood(arguments: str, text: str) -> None:
    """Arguments that are not what was asked for give the text that was meant, or themselves."""
    assert bridge.unwrap(arguments) == text
    assert in_pieces(arguments, list(range(len(arguments)))) == text


@given(st.text(), st.lists(st.integers(0, 200), max_size=12))
def test_any_arguments_give_a_text(arguments: str, cuts: list[int]) -> None:
    """No arguments make it fail, and the split never matters."""
    assert in_pieces(arguments, cuts) == bridge.unwrap(arguments)


def test_what_waits_is_bounded() -> None:
    """Arguments under other names are not held back without end."""
    unwrapper, out = bridge.Unwrapper(), ""
    for piece in ['{"patch": "', *["x" * 100_000] * 20]:
        out += unwrapper.feed(piece)
    assert len(out) > 1_000_000


def test_a_custom_tool_becomes_a_function() -> None:
    """The function has the tool's name, one text parameter, and its grammar in the description."""
    grammar = msgspec.Raw(b'{"type":"grammar","syntax":"lark","definition":"start: \\"a\\""}')
    function = bridge.as_function(Tool("apply_patch", "Edits files.", custom=True, format=grammar))
    assert (function.name, function.custom, function.format) == ("apply_patch", False, None)
    assert function.parameters is not None
    schema = json.loads(bytes(function.parameters))
    assert (list(schema["properties"]), schema["required"]) == (["input"], ["input"])
    assert function.description is not None
    assert function.description.startswith("Edits files.")
    assert '(lark):\nstart: "a"' in function.description


def test_chat_s_grammar_is_told_as_well() -> None:
    """Chat Completions keeps the grammar one level deeper."""
    grammar = msgspec.Raw(b'{"type":"grammar","grammar":{"syntax":"regex","definition":"a+"}}')
    assert "(regex):\na+" in (bridge.as_function(Tool("t", custom=True, format=grammar)).description or "")


def test_a_function_stays_as_it_is() -> None:
    """Only custom tools are disguised."""
    function = Tool("read", "Reads.", parameters=msgspec.Raw(b"{}"))
    assert bridge.as_function(function) is function
