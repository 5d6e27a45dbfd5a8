"""A prompt that is too long is told in the words that agents look for, each time and in each dialect."""

from __future__ import annotations

import re

import pytest

from eggpool.domain import Dialect
from eggpool.routing.verdict import Kind, classify
from eggpool.wire import too_long

CHAT, MESSAGES, RESPONSES = Dialect.CHAT, Dialect.MESSAGES, Dialect.RESPONSES
LOOKED_FOR = {
    CHAT: re.compile(r"maximum context length", re.IGNORECASE),
    MESSAGES: re.compile(r"prompt is too long", re.IGNORECASE),
    RESPONSES: re.compile(r"maximum context length", re.IGNORECASE),
}
PROVIDERS = [
    "prompt is too long: 208310 tokens > 200000 maximum",
    "Prompt is too long",
    "This model's maximum context length is 128000 tokens. However, your messages resulted in 140000 tokens.",
    "Your input exceeds the context window of this model. Please adjust your input and try again.",
    "the request exceeds the available context size",
    "",
]


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_counted_prompt(dialect: Dialect) -> None:
    """Both numbers are named; Claude Code reads them out of the message."""
    told = too_long.counted(dialect, 208_310, 200_000)
    assert LOOKED_FOR[dialect].search(told)
    assert "208310" in told
    assert "200000" in told
    if dialect is MESSAGES:
        assert told == "prompt is too long: 208310 tokens > 200000 maximum"


@pytest.mark.parametrize("dialect", list(Dialect))
@pytest.mark.parametrize("words", PROVIDERS)
def test_a_provider_s_words(dialect: Dialect, words: str) -> None:
    """A provider's sentence stays whole; what agents look for is put before it unless it is there already."""
    told = too_long.translated(dialect, words)
    assert LOOKED_FOR[dialect].search(told)
    assert told.endswith(words)
    assert (told == words) == bool(LOOKED_FOR[dialect].search(words))
    assert too_long.translated(dialect, told) == told


@pytest.mark.parametrize("dialect", list(Dialect))
def test_our_own_words_are_understood_again(dialect: Dialect) -> None:
    """A pool behind a pool sees what it is."""
    assert classify(400, "", "", too_long.counted(dialect, 9, 8)) is Kind.PROMPT_TOO_LONG
    assert classify(400, too_long.CODE, "", "") is Kind.PROMPT_TOO_LONG
