"""The usage block of Messages replies, read and written.

Source: the Anthropic API reference, "Prompt caching": `input_tokens` there excludes what was read from or written to
the cache, while a `Usage` includes it.
"""

from __future__ import annotations

from eggpool.domain import Usage
from eggpool.wire import fields
from eggpool.wire.notes import usage_of


def read_usage(value: object) -> Usage | None:
    """The usage block of a reply, None when there is none."""
    block = fields.mapping(value)
    if not block:
        return None
    read = fields.count(block.get("cache_read_input_tokens"))
    creation = fields.mapping(block.get("cache_creation"))
    write_1h = fields.count(creation.get("ephemeral_1h_input_tokens"))
    write = max(
        fields.count(block.get("cache_creation_input_tokens")),
        fields.count(creation.get("ephemeral_5m_input_tokens")) + write_1h,
    )
    details = fields.mapping(block.get("output_tokens_details"))
    return usage_of(
        input_tokens=fields.count(block.get("input_tokens")) + read + write,
        output_tokens=fields.count(block.get("output_tokens")),
        cache_read=read,
        cache_write=write,
        cache_write_1h=write_1h,
        reasoning=fields.count(details.get("thinking_tokens") or details.get("reasoning_tokens")),
        cost_nanodollars=fields.nanodollars(block.get("cost")),
    )


def write_usage(usage: Usage) -> dict[str, object]:
    """A usage block for a whole reply or a `message_start`."""
    block = write_final_usage(usage)
    if usage.cache_write_tokens:
        block["cache_creation"] = {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        }
    return block


def write_final_usage(usage: Usage) -> dict[str, object]:
    """A usage block for a `message_delta`, which knows fewer fields."""
    cached = usage.cache_read_tokens + usage.cache_write_tokens
    block: dict[str, object] = {
        "input_tokens": max(0, usage.input_tokens - cached),
        "cache_creation_input_tokens": usage.cache_write_tokens,
        "cache_read_input_tokens": usage.cache_read_tokens,
        "output_tokens": usage.output_tokens,
    }
    if usage.reasoning_tokens:
        block["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return block
