"""What is skimmed from replies too long to be kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.wire.replies import DONE, chat, data

from eggpool.domain import Dialect, Usage
from eggpool.wire.dialects import CODECS
from eggpool.wire.usage import Observer, Skimmer

CHAT = CODECS[Dialect.CHAT]


@given(st.lists(st.binary(max_size=5_000), max_size=30))
def test_only_both_ends_are_kept(chunks: list[bytes]) -> None:
    """Head and tail are those of the whole, however it came, and never grow beyond their bounds."""
    skimmer = Skimmer()
    for chunk in chunks:
        skimmer.feed(chunk)
        assert len(skimmer.head) <= 1024
        assert len(skimmer.tail) <= 16 * 1024
    whole = b"".join(chunks)
    assert skimmer.head == whole[:1024]
    assert skimmer.tail == whole[-16 * 1024 :]


@given(st.binary(max_size=300) | st.text(alphabet='"usage: {}\\1', max_size=200).map(str.encode))
def test_skimming_never_raises(reply: bytes) -> None:
    """Whatever stands there, usage is a value or nothing."""
    skimmer = Skimmer()
    skimmer.feed(reply)
    skimmer.usage(CHAT)


def test_the_last_usage_holds() -> None:
    """Of several usage blocks the last whole one counts."""
    skimmer = Skimmer()
    skimmer.feed(b'{"usage":{"prompt_tokens":1}} {"usage" : {"prompt_tokens":2,"x":{}}} {"usage":{"prompt_tokens":3')
    assert skimmer.usage(CHAT) == Usage(input_tokens=2)


def test_text_that_looks_like_marks_is_passed_by() -> None:
    """After the first content, an event in whose text the marks are quoted is passed by unread."""
    observer = Observer(CHAT, withhold_usage=False)
    observer.content = True
    block = chat({"content": '"usage": {"prompt_tokens": 9}, "finish_reason":"stop"'}).replace(b"null", b"0")
    assert observer.observe(block) is block
    assert (observer.usage, observer.terminal) == (None, False)


def choice(index: int, content: str = "", finish: str | None = None) -> bytes:
    """One chunk for one of several choices."""
    return data({"choices": [{"index": index, "delta": {"content": content}, "finish_reason": finish}]})


@pytest.mark.parametrize("withhold_usage", [False, True])
def test_of_several_choices_one_end_is_not_the_end(withhold_usage: bool) -> None:
    """With several choices in a stream only [DONE] says that it is whole; with one its finish reason does."""
    stream = [choice(0, "a"), choice(1, "b"), choice(0, finish="stop"), choice(1, "half of")]
    observer = Observer(CHAT, withhold_usage=withhold_usage)
    ends = []
    for block in (*stream, choice(1, finish="stop"), DONE):
        assert observer.observe(block) == block
        ends.append(observer.terminal)
    assert ends == [False, False, False, False, False, True]
    in_one = Observer(CHAT, withhold_usage=withhold_usage)
    in_one.observe(b"".join(stream))
    assert not in_one.terminal


def test_several_tool_calls_are_one_choice() -> None:
    """Indexes inside a choice count its tool calls: its finish reason is the end of the reply."""
    observer = Observer(CHAT, withhold_usage=False)
    observer.observe(chat({"tool_calls": [{"index": 0, "function": {"name": "a"}}]}))
    observer.observe(chat({"tool_calls": [{"index": 1, "function": {"name": "b"}}]}))
    observer.observe(chat({}, "tool_calls"))
    assert observer.terminal
