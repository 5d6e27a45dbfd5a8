"""How a client is told that its prompt is too long, in the words that agents look for before they compact.

Sources: Anthropic's error "prompt is too long: 208310 tokens > 200000 maximum", OpenAI's code
`context_length_exceeded` with "This model's maximum context length is ...".
"""

from __future__ import annotations

from eggpool.domain import Dialect

CODE = "context_length_exceeded"
_ANTHROPIC = "prompt is too long"
_OPENAI = "maximum context length"


def counted(dialect: Dialect, tokens: int, limit: int) -> str:
    """The message for a prompt of so many tokens, as far as one can tell, where the model takes `limit`."""
    if dialect is Dialect.MESSAGES:
        return f"{_ANTHROPIC}: {tokens} tokens > {limit} maximum"
    return (
        f"This model's {_OPENAI} is {limit} tokens. However, your messages resulted in about {tokens} tokens. "
        "Please reduce the length of the messages."
    )


def translated(dialect: Dialect, told: str) -> str:
    """A provider's own message in another dialect, with the words that clients of this one look for before it."""
    wanted = _ANTHROPIC if dialect is Dialect.MESSAGES else _OPENAI
    if wanted in told.lower():
        return told
    return f"{_ANTHROPIC}: {told}" if dialect is Dialect.MESSAGES else f"This exceeds the model's {_OPENAI}: {told}"
