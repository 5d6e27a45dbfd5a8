"""The words of Responses that requests and replies share, in both directions: names of fields, reasons, ids.

Source: the OpenAI API reference, "The response object".
"""

from __future__ import annotations

import re

from eggpool.wire.events import StopReason

LOGPROBS = "message.output_text.logprobs"
"""The member of `include` that asks for the probabilities of words."""

SEALED_THOUGHTS = "reasoning.encrypted_content"
"""The member of `include` that asks for thoughts in the form in which they can be sent back."""

ECHOED = (
    "instructions", "max_output_tokens", "max_tool_calls", "metadata", "parallel_tool_calls", "prompt_cache_key",
    "reasoning", "safety_identifier", "service_tier", "temperature", "text", "tool_choice", "tools", "top_logprobs",
    "top_p", "truncation", "user",
)  # fmt: skip
"""The fields of a request that its reply repeats."""

INCOMPLETE: dict[str, StopReason] = {
    "max_output_tokens": StopReason.MAX_TOKENS,
    "max_messages": StopReason.PAUSE,
    "steered": StopReason.PAUSE,
    "content_filter": StopReason.CONTENT_FILTER,
}
"""Why a reply is incomplete; a reason that nobody knows is taken for the output limit."""

REASONS: dict[StopReason, str] = {
    StopReason.MAX_TOKENS: "max_output_tokens",
    StopReason.CONTEXT_FULL: "max_output_tokens",
    StopReason.CONTENT_FILTER: "content_filter",
    StopReason.REFUSAL: "content_filter",
}
"""Why a reply is incomplete, by the reason of its stop; all others are complete."""

ERROR_CODES: dict[str, str] = {
    "rate_limit_error": "rate_limit_exceeded",
    "overloaded_error": "server_is_overloaded",
    "invalid_request_error": "invalid_prompt",
} | {
    code: code
    for code in (
        "context_length_exceeded", "insufficient_quota", "invalid_prompt", "rate_limit_exceeded", "server_error",
        "server_is_overloaded", "usage_not_included",
    )
}  # fmt: skip
"""The codes of failures that clients act on, by a failure's own code or type; any other one is a server's error.

Codex reads more of them than the reference lists.
"""

_NO_ID = re.compile(r"[^A-Za-z0-9_-]+")
_MAX_STEM_CHARS = 44  # OpenAI takes ids of up to 64 characters back


def stem_of(told: str) -> str:
    """What the ids of a reply and of all that is in it are made from."""
    return _NO_ID.sub("_", told.removeprefix("resp_"))[:_MAX_STEM_CHARS] or "0"
